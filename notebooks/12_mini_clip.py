# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · How CLIP learns: pictures and words in one space

# %% tags=["setup"]
import pathlib
import sys

root = next((p for p in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents) if (p / "t2ilib").is_dir()), None)
sys.path.insert(0, str(root))

# %% tags=["parameters"] nbmake={"mock": {"profile": "smoke"}}
profile: str = "quick"  # smoke, quick or full
seed: int = 0
device: str = "auto"  # auto, cpu, cuda or mps
dtype: str = "auto"  # auto, float32 or bfloat16
recipe: str = "emoji-clip"  # emoji-clip, emoji-clip-b or emoji-judge
steps: int | None = None  # None: the profile's own
batch_size: int | None = None
work_dir: str = ""  # where a training state lives, to go on after an interruption; "" is reports/training/<recipe>
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %%
import torch
from torch.nn import functional as F

from t2ilib import profiles, runtime
from t2ilib.checkpoint import save_model
from t2ilib.data import load_captioned
from t2ilib.data.augment import augment
from t2ilib.data.captions import caption_variants, plain_name
from t2ilib.encoders.emoji_clip import EmojiClip, text_tower_features
from t2ilib.encoders import load_text_encoder
from t2ilib.paths import cache_dir, reports_dir
from t2ilib.record import Run
from t2ilib.training import EMA, Batches, Every, cosine_lr, load_training, save_training, set_lr

# %%
given = dict(profile=profile, seed=seed, device=device, dtype=dtype, recipe=recipe, steps=steps, batch_size=batch_size)
cfg = profiles.resolve(profile, overrides={"steps": steps, "batch_size": batch_size},
                       smoke=dict(steps=3, batch_size=16),
                       quick=dict(steps=150, batch_size=64, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.998),
                       full=dict(steps=4000, batch_size=128))
if threads:
    torch.set_num_threads(threads)
device_ = runtime.pick_device(device)
dtype_ = runtime.pick_dtype(device_, dtype)
runtime.seed_everything(seed)
run = Run("12_mini_clip", given=given, resolved=cfg, device=device_)
print(runtime.describe(device_, dtype_, profile, seed))

# %%
RECIPES = {  # what differs between the three models
    "emoji-clip": dict(kwargs=dict(tower="resnet_fast"), splits=("train",), leave_out=False, seed=0),
    "emoji-clip-b": dict(kwargs=dict(tower="resnet_small"), splits=("train",), leave_out=False, seed=1),
    "emoji-judge": dict(kwargs=dict(tower="convnext"), splits=("train", "validation", "held_out"), leave_out=True, seed=2),
}
chosen = RECIPES[recipe]

# %%
everything = load_captioned("emoji", split="all", image_size=64)
names = everything.columns["name"]
concepts = sorted(set(names))
concept_of = torch.tensor([concepts.index(n) for n in names])
in_split = torch.tensor([s in chosen["splits"] for s in everything.columns["split"]])


def left_out_rows(seed):
    """Of each concept that at least two artists drew, the row that the judge never sees."""
    rows = {}
    for row, concept in enumerate(concept_of.tolist()):
        rows.setdefault(concept, []).append(row)
    return torch.tensor([r[runtime.derived_seed(seed, "left out", concepts[c]) % len(r)] for c, r in rows.items() if len(r) > 1])


left_out = left_out_rows(chosen["seed"])
use = in_split.clone()
if chosen["leave_out"]:
    use[left_out] = False
train_rows = use.nonzero()[:, 0]
print(len(train_rows), "pictures for training")

# %%
variants = caption_variants(everything)  # a fixed list of captions for each row, the plain name first
width = min(len(v) for v in variants)
texts = sorted({t for v in variants for t in v[:width]})
encoder = load_text_encoder("minilm", cache=cache_dir() / "text")
features = text_tower_features(texts, encoder=encoder)
where = {t: i for i, t in enumerate(texts)}
text_id = torch.tensor([[where[t] for t in v[:width]] for v in variants])  # (N, V)
name_features = text_tower_features([plain_name(c) for c in concepts], encoder=encoder)
print(len(texts), "captions encoded")

# %%
train_concepts, local = concept_of[train_rows].unique(return_inverse=True)
rows_of = [train_rows[local == c] for c in range(len(train_concepts))]
rows_count = torch.tensor([len(r) for r in rows_of])
rows_table = torch.nn.utils.rnn.pad_sequence(rows_of, batch_first=True)  # (C, most pictures of a concept)

model = EmojiClip(**chosen["kwargs"]).to(device_, memory_format=torch.channels_last)
ema = EMA(model, cfg.ema_decay)
decay = [p for p in model.parameters() if p.ndim > 1]
plain = [p for p in model.parameters() if p.ndim <= 1]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": cfg.weight_decay}, {"params": plain, "weight_decay": 0.0}],
                              lr=cfg.learning_rate, betas=(0.9, 0.98))
stream = runtime.generator(seed, recipe, "training")
batches = Batches(len(train_rows), cfg.batch_size, runtime.generator(seed, recipe, "batches"))
images = everything.images


def draw_captions(rows):
    """One random caption variant for each row: MiniLM features (B, 384)."""
    pick = torch.randint(width, (len(rows),), generator=stream)
    return features[text_id[rows, pick]]


def draw_bank():
    """One caption of one random picture for each training concept: (C, 384)."""
    pick = (torch.rand(len(rows_table), generator=stream) * rows_count).long()
    return draw_captions(rows_table[torch.arange(len(rows_table)), pick])


# %%
def clip_loss(rows, concept):
    x = augment(images[rows], stream).to(device_)
    with runtime.autocast(device_, dtype_):
        picture = model.encode_image(model.normalise(x).contiguous(memory_format=torch.channels_last)).float()
    own = model.encode_features(draw_captions(rows).to(device_))
    bank = model.encode_features(draw_bank().to(device_))
    scale = model.logit_scale.clamp(max=4.6).exp()
    positive = (picture * own).sum(1, keepdim=True)
    negative = (picture @ bank.T).scatter(1, concept[:, None].to(device_), -1.0)
    to_text = F.cross_entropy(scale * torch.cat([positive, negative], 1), torch.zeros(len(rows), dtype=torch.long, device=device_))
    same = (concept[:, None] == concept[None]) & ~torch.eye(len(rows), dtype=torch.bool)
    to_picture = F.cross_entropy((scale * own @ picture.T).masked_fill(same.to(device_), -1e4),
                                 torch.arange(len(rows), device=device_))
    return (to_text + to_picture) / 2


# %%
@torch.no_grad()
def encode_rows(net, rows):
    white = torch.ones(())
    out = []
    for chunk in rows.split(256):
        x = everything.batch(chunk, background="white").to(device_) * 0.5 + 0.5
        with runtime.autocast(device_, dtype_):
            out.append(net.encode_image(net.normalise(x).contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(out)


@torch.no_grad()
def retrieval(net, split):
    """Text-to-image top-1 and top-5 among the concepts of a split, one artist at a time, averaged over artists."""
    scores = []
    for artist in ("noto", "twemoji", "fluent", "fluent-flat"):
        rows = torch.tensor([i for i, (a, s) in enumerate(zip(everything.columns["artist"], everything.columns["split"]))
                             if a == artist and s == split])
        sim = net.encode_features(name_features[concept_of[rows]].to(device_)).cpu() @ encode_rows(net, rows).T
        rank = (sim > sim.diag()[:, None]).sum(1)
        scores.append(torch.stack([(rank < 1).float().mean(), (rank < 5).float().mean()]))
    return torch.stack(scores).mean(0).tolist()


@torch.no_grad()
def strict_rank(net, rows):
    """Rank of the true name among all concept names for each picture: top-1 and top-10."""
    sim = encode_rows(net, rows) @ net.encode_features(name_features.to(device_)).cpu().T
    rank = (sim > sim.gather(1, concept_of[rows][:, None])).sum(1)
    return [(rank < 1).float().mean().item(), (rank < 10).float().mean().item()]


def evaluate(net):
    if chosen["leave_out"]:
        t1, t10 = strict_rank(net, left_out)
        return {"left_out_top1": t1, "left_out_top10": t10}
    t1, t5 = retrieval(net, "validation")
    return {"validation_top1": t1, "validation_top5": t5}


# %%
folder = pathlib.Path(work_dir) if work_dir else reports_dir() / "training" / recipe
parts = dict(model=model, ema=ema, optimizer=optimizer, stream=stream, batches=batches)
first = 0
if profile == "full" and (folder / "state.pt").exists():
    first = load_training(folder / "state.pt", **parts)
save_due, look_due = Every(120), Every(180)
for step in runtime.progress(range(first, cfg.steps), desc=recipe, every=60):
    set_lr(optimizer, cosine_lr(step, cfg.steps, peak=cfg.learning_rate, warmup=min(100, cfg.steps // 10)))
    index = batches.next()
    loss = clip_loss(train_rows[index], local[index])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    run.log(step, loss=loss.item())
    if profile == "full" and save_due():
        save_training(folder / "state.pt", step=step + 1, **parts)
    if profile == "full" and look_due():
        print(step + 1, f"loss {loss.item():.3f} scale {model.logit_scale.exp().item():.1f}", evaluate(ema.model), flush=True)

# %%
result = evaluate(ema.model)
run.metric(**result)
print(result)
save_model(run.dir / recipe, ema.model, dtype=torch.float16, recipe=recipe, seed=seed, steps=cfg.steps, metrics=result)
if profile == "full":
    save_training(folder / "state.pt", step=cfg.steps, **parts)
run.finish()
