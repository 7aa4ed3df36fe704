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
# # 13 · How a VQGAN learns: pictures as a grid of codes

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
steps: int | None = None  # None: the profile's own
batch_size: int | None = None
work_dir: str = ""  # where the training state lives, to go on after an interruption; "" is reports/training/emoji-vqgan
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %%
import torch
from torch.nn import functional as F

from t2ilib import profiles, runtime
from t2ilib.checkpoint import save_model
from t2ilib.data import load_captioned
from t2ilib.data.augment import augment_exact
from t2ilib.layers.quantize import EMACodebook
from t2ilib.models.vqgan import VQGAN
from t2ilib.paths import reports_dir
from t2ilib.record import Run
from t2ilib.training import EMA, Batches, Every, cosine_lr, load_training, save_training, set_lr

# %%
given = dict(profile=profile, seed=seed, device=device, dtype=dtype, steps=steps, batch_size=batch_size)
cfg = profiles.resolve(profile, overrides={"steps": steps, "batch_size": batch_size},
                       smoke=dict(steps=3, batch_size=4),
                       quick=dict(steps=150, batch_size=16, learning_rate=8e-4, ema_decay=0.999, mse_weight=2.0,
                                  commitment=0.25, image_size=64),
                       full=dict(steps=6000, batch_size=16))
if threads:
    torch.set_num_threads(threads)
device_ = runtime.pick_device(device)
dtype_ = runtime.pick_dtype(device_, dtype)
runtime.seed_everything(seed)
run = Run("13_mini_vqgan", given=given, resolved=cfg, device=device_)
print(runtime.describe(device_, dtype_, profile, seed))

# %%
data = load_captioned("emoji", split="train", image_size=cfg.image_size)
validation = load_captioned("emoji", split="validation", image_size=cfg.image_size)
model = VQGAN(embed_dim=8, n_embed=2048, z_channels=8, resolution=64, ch=16, ch_mult=[1, 3, 8], num_res_blocks=1,
              attn_resolutions=[], norm_groups=8).to(device_)
codebook = EMACodebook(model.quantize, decay=0.99, seed=seed)
ema = EMA(model, cfg.ema_decay)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=cfg.learning_rate,
                              betas=(0.9, 0.99), weight_decay=1e-4)
stream = runtime.generator(seed, "vqgan", "training")
batches = Batches(len(data), cfg.batch_size, runtime.generator(seed, "vqgan", "batches"))
print(sum(p.numel() for p in model.parameters()) / 1e6, "M parameters")


# %%
def reconstruction_loss(real):
    with runtime.autocast(device_, dtype_):
        z_e = model.encode(real)
        quantized = model.quantize(z_e.float())
        fake = model.decode(quantized.z_q)
    codebook.update(z_e.float(), quantized.codes)
    fake = fake.float()
    l1, l2 = F.l1_loss(fake, real), F.mse_loss(fake, real)
    return l1 + cfg.mse_weight * l2 + cfg.commitment * quantized.commitment, l1, quantized


# %%
@torch.no_grad()
def evaluate(net, rows):
    """PSNR in dB, averaged over pictures, on white; and the share of codes that these pictures use."""
    values, used = [], torch.zeros(len(net.codebook), dtype=torch.bool)
    for chunk in torch.arange(len(rows)).split(64):
        real = rows.batch(chunk, background="white").to(device_)
        with runtime.autocast(device_, dtype_):
            q = net.quantize(net.encode(real).float())
            fake = net.decode(q.z_q).float().clamp(-1, 1)
        values.append(10 * torch.log10(4 / (fake - real).square().mean((1, 2, 3))))
        used[q.codes.flatten().cpu()] = True
    return {"psnr": torch.cat(values).mean().item(), "codes_used": used.float().mean().item()}


# %%
folder = pathlib.Path(work_dir) if work_dir else reports_dir() / "training" / "emoji-vqgan"
parts = dict(model=model, ema=ema, codebook=codebook, optimizer=optimizer, stream=stream, batches=batches)
first = 0
if profile == "full" and (folder / "state.pt").exists():
    first = load_training(folder / "state.pt", **parts)
save_due, look_due = Every(120), Every(240)
for step in runtime.progress(range(first, cfg.steps), desc="vqgan", every=60):
    set_lr(optimizer, cosine_lr(step, cfg.steps, peak=cfg.learning_rate, warmup=min(100, cfg.steps // 10), floor=0.02))
    real = augment_exact(data.images[batches.next()], stream).to(device_)
    loss, l1, quantized = reconstruction_loss(real)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    run.log(step, loss=loss.item(), l1=l1.item(), perplexity=quantized.perplexity.item())
    if profile == "full" and save_due():
        save_training(folder / "state.pt", step=step + 1, **parts)
    if profile == "full" and look_due():
        print(step + 1, f"l1 {l1.item():.4f} perplexity {quantized.perplexity.item():.0f}",
              evaluate(ema.model, validation.select(range(0, len(validation), 3))), flush=True)

# %%
result = evaluate(ema.model, validation)
run.metric(**result)
print(result)
save_model(run.dir / "emoji-vqgan", ema.model, dtype=torch.float16, seed=seed, steps=cfg.steps, metrics=result)
if profile == "full":
    save_training(folder / "state.pt", step=cfg.steps, **parts)
run.finish()
