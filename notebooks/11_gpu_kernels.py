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
# # 11 · GPU kernels: fewer bytes
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/11_gpu_kernels.ipynb)
#
# A few lines of torch, and what they cost in memory traffic. Then the same in one pass, written in Triton, and read
# line by line: on a laptop too, in Triton's interpreter.
#
# **What you will learn**
# - how to tell whether an operation waits for memory or for arithmetic: the roofline, measured on your own machine
# - how to find the nearest of 16,384 codes without ever holding the distances, and how exact that must be
# - what a Triton program is: tiles, masks, running results, and how to debug one with `print`
# - what a fused operation saves, forward and backward, in bytes
# - why a gradient penalty through a hand-written kernel is silently wrong, and the guard that mends it
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 30 s | 1.7 GB |
# | quick | 1 CPU core | 40 s | 1.9 GB |
# | full | 1 CPU core | 4 min | 2 GB |
# | full | GPU | not measured | |
#
# Rerun it on other sizes: `python -m t2ilib run 11 -p num_codes 65536`.

# %% cellView="form" jupyter={"source_hidden": true} tags=["setup"]
# @title Set-up: finds the repository, on Colab clones it
import importlib.util
import pathlib
import subprocess
import sys
from typing import Optional

REPOSITORY = "https://github.com/OWNER/REPO"
here = pathlib.Path.cwd()
file = pathlib.Path(globals().get("__file__", "notebook")).resolve()
places = (here, *here.parents, *file.parents)
root = next((place for place in places if (place / "t2ilib").is_dir()), None)
if "google.colab" in sys.modules:  # torch, torchvision and numpy stay as Colab has them
    if root is None:
        root = here / REPOSITORY.rsplit("/", 1)[-1]
        if not root.exists():
            subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(root)], check=False)
        if not root.exists():
            raise FileNotFoundError(f"{REPOSITORY} could not be cloned: write the address of your "
                                    "copy into REPOSITORY above")
    needed = {"safetensors": "safetensors"}
    missing = [name for module, name in needed.items() if not importlib.util.find_spec(module)]
    if missing:
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*install, *missing], check=True)
if root is None:
    raise FileNotFoundError(f"{here} is outside the repository: start Jupyter inside it, or give "
                            "papermill --cwd PATH_OF_THE_REPOSITORY; to get one: "
                            f"git clone {REPOSITORY}")
sys.path.insert(0, str(root))
importlib.import_module("t2ilib")  # before torch: it chooses how threads wait

# %% nbmake={"mock": {"profile": "smoke"}} tags=["parameters"]
profile: str = "quick"  # smoke, quick or full
seed: int = 0
device: str = "auto"  # auto, cpu or cuda
num_vectors: Optional[int] = None  # vectors whose nearest code is looked for; None: the profile's own
num_codes: Optional[int] = None  # the largest codebook
seconds: Optional[float] = None  # how long each thing is timed
threads: int = 0  # CPU threads; 0 leaves torch's own choice

# %% [markdown]
# Triton compiles for GPUs. Without one its interpreter runs the same kernels on the CPU, slowly. It must be switched on
# before a kernel is defined, so before the library is imported.

# %%
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# %%
import csv
import functools
import inspect
from dataclasses import replace

import matplotlib.pyplot as plt
from torch.nn import functional as F

from t2ilib import runtime, show
from t2ilib.bench.kernels import CASES, case_rows, machine_rows
from t2ilib.bench.measure import measure
from t2ilib.data import load_captioned
from t2ilib.kernels import HAS_TRITON, cutouts, group_norm_silu, nearest_code, second_order_via
from t2ilib.lesson import start
from t2ilib.media import to_unit
from t2ilib.memory import LiveBytes
from t2ilib.models.vqgan import load_vqgan
from t2ilib.paths import checkpoints_dir, repo_root, reports_dir

# %% [markdown]
# A profile gives the settings that the parameters leave open; `quick` names them all.

# %%
run, cfg, device_, _ = start(
    "11_gpu_kernels", profile=profile, seed=seed, device=device, dtype="float32", threads=threads,
    num_vectors=num_vectors, num_codes=num_codes, seconds=seconds,
    smoke=dict(num_vectors=256, num_codes=1024, seconds=0.01, pictures=8, triton_rows=20, cases=1),
    quick=dict(num_vectors=1024, num_codes=16384, seconds=0.3, pictures=64, triton_rows=70, cases=0),
    full=dict(num_vectors=4096, num_codes=16384, seconds=3.0, pictures=660, triton_rows=150))
if not HAS_TRITON:
    print("Triton: not installed here; its cells are left out")
elif device_.type == "cuda":
    print("Triton: compiles for this GPU")
else:
    print("Triton: interpreted")


def noise(*shape, name="noise"):
    return torch.randn(shape, generator=runtime.generator(seed, name)).to(device_)

# %% [markdown]
# ## The idea: a roof with two sides
# A processor reads bytes, calculates, and writes bytes. It can copy so many bytes a second, $\beta$, and do so many
# operations, $\pi$. An operation that must move $b$ bytes and calculate $f$ operations cannot take less than
#
# $$t \geq \max\left(\frac{b}{\beta}, \frac{f}{\pi}\right) ,$$
#
# and which of the two counts is a matter of its *intensity* $f/b$ (Williams et al. 2009). Nothing else in this notebook
# is as useful as this line: it says what a faster program could gain at most. First the two numbers of this machine,
# measured with a large copy and a large product:

# %%
machine, rates = machine_rows(device_, cfg.seconds)
rows = {row.provider: {row.metric: row.p50} for row in machine}
run.keep("machine", show.Table(rows, digits=1, note="of this machine, at best"))
balance = rates.matmul / rates.copy
print(f"in the time of one byte there is time for {balance:.1f} operations in float32")
run.metric(copy_gb_per_second=rates.copy / 1e9, matmul_gflop_per_second=rates.matmul / 1e9)

# %% [markdown]
# What are intensities? Adding two numbers: one operation for twelve bytes. SiLU: four or so for eight. A product of two
# $n \times n$ matrices: $2 n^3$ for $12 n^2$ bytes, $n / 6$. So all that is done number by number waits for memory, on
# every machine, and the only way to make it faster is to move less: read once, do everything, write once.

# %%
INTENSITIES = {"add two tensors": 1 / 12, "SiLU": 4 / 8, "group norm and SiLU, fused": 12 / 12}
INTENSITIES |= {f"product of {n} x {n}": n / 6 for n in (32, 256, 2048)}
rows = {}
for name, intensity in INTENSITIES.items():
    reachable = min(1.0, intensity / balance)  # share of the arithmetic that memory can feed
    rows[name] = {"intensity": intensity, "waits for": "memory" if reachable < 1 else "arithmetic",
                  "arithmetic in use": 100 * reachable}
units = {"intensity": "operations a byte", "arithmetic in use": "% at most"}
run.keep("intensities", show.Table(rows, units=units,
                                   digits={"intensity": 2, "arithmetic in use": 0}))

# %% [markdown]
# ## The nearest of many codes
# A VQGAN replaces each vector $z_i$ by the nearest row $e_k$ of its codebook. In one line, with all differences, and as
# everybody writes it, with all distances, $|z|^2 - 2 z \cdot e + |e|^2$:

# %%
def by_differences(z, codebook):
    differences = z[:, None] - codebook  # (N, K, D)
    distances = differences.square().sum(-1)  # (N, K)
    return distances.argmin(1)


def by_distances(z, codebook):
    distances = (z.square().sum(1, keepdim=True) - 2 * z @ codebook.T
                 + codebook.square().sum(1))  # (N, K)
    return distances.argmin(1)


z = noise(40, 8, name="z")
codebook = noise(300, 8, name="codebook")
codes = by_distances(z, codebook)
assert torch.equal(by_differences(z, codebook), codes)
assert torch.equal(nearest_code(z, codebook), codes)
print("all three agree")

# %% [markdown]
# `LiveBytes` adds up what tensors hold. With N vectors and K codes the first holds N K D numbers, the second N K
# several times over, and the answer is N numbers. `nearest_code` walks over blocks of the codebook and keeps for each
# vector only the best so far:

# %%
def peak_mib(function, *inputs):
    with LiveBytes() as live:
        function(*inputs)
    return live.peak / 2**20


sizes = [k for k in (256, 1024, 4096, 16384, 65536, 262144) if k <= cfg.num_codes]
z = noise(cfg.num_vectors, 64, name="z")
peaks = {}
for function in (by_distances, nearest_code):
    peaks[function.__name__] = [peak_mib(function, z, noise(k, 64, name="codebook")) for k in sizes]
peaks["by_differences, counted"] = [4 * cfg.num_vectors * k * 64 / 2**20 for k in sizes]
columns = [f"{k:,} codes" for k in sizes]
rows = {name: dict(zip(columns, mib)) for name, mib in peaks.items()}
run.keep("codes_memory", show.Table(
    rows, digits=1, best=f"-{columns[-1]}", units=dict.fromkeys(columns, "MiB"),
    baselines=["by_differences, counted"],
    note=f"at the peak, for {cfg.num_vectors} vectors of 64; the last row is counted, not "
         "measured"))
curves = {name: (sizes, mib) for name, mib in peaks.items()}
run.keep("codes_memory", show.curves(curves, log=True, xlabel="codes", ylabel="MiB",
                                     size=(5.5, 3.0), title=f"{cfg.num_vectors} vectors of 64"))

# %% [markdown]
# The running best, in torch. This is what the library's reference does, but for its care with near ties:

# %%
def running_best(z, codebook, block=1024):
    best = z.new_full((len(z),), -torch.inf)
    code = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    for first in range(0, len(codebook), block):
        part = codebook[first:first + block]
        scores = z @ part.T - 0.5 * part.square().sum(1)  # (N, block), largest where nearest
        score, index = scores.max(1)
        code = torch.where(score > best, first + index, code)
        best = torch.maximum(score, best)
    return code


def timed(row):
    """What a table shows of a row that `measure` returned."""
    return {"time": row.p50, "p20": row.p20, "p80": row.p80, "speed-up": row.ratio}


# %%
codebook = noise(cfg.num_codes, 64, name="codebook")
assert torch.equal(running_best(z, codebook), nearest_code(z, codebook))
functions = {}
for function in (by_distances, running_best, nearest_code):
    functions[function.__name__] = functools.partial(function, z, codebook)
found = measure("codes", functions, baseline="by_distances", mode="forward", shape="",
                device=device_, seconds=cfg.seconds)
times = {row.provider: row for row in found if row.metric == "ms"}
run.metric(**{f"{name}_ms": row.p50 for name, row in times.items()})
TIMED = dict(units={"time": "ms"}, intervals={"time": ("p20", "p80")}, best="-time")
note = (f"{cfg.num_vectors} vectors of 64, {cfg.num_codes:,} codes; time: median, 20th to 80th "
        "percentile; speed-up: over by_distances")
run.keep("codes_time", show.Table({name: timed(row) for name, row in times.items()}, digits=2,
                                  note=note, **TIMED))

# %% [markdown]
# ### How exact?
# Only the smallest distance counts, so errors matter where two codes are almost equally near. Tensor cores read
# float32 with 10 bits behind the point (TF32), bfloat16 has 7, float32 has 23. On real vectors, of the shipped VQGAN
# and drawings it never saw, how often does a rounded product choose another code than float64 does? And *TF32 x 3* cuts
# each number into two halves of 10 bits and adds up three products:

# %%
def rounded(x, bits):
    """Round float32 to so many bits behind the point."""
    drop = 23 - bits
    half = 1 << drop >> 1  # of the last place that stays
    whole = x.contiguous().view(torch.int32)
    return ((whole + half) >> drop << drop).view(torch.float32)


def rounded_product(z, codebook, bits, terms):
    """The product (N, K) of numbers rounded to `bits`, or of the sums of two such numbers."""
    z_high = rounded(z, bits)
    codebook_high = rounded(codebook, bits)
    if terms == 1:
        return z_high @ codebook_high.T
    z_low = rounded(z - z_high, bits)
    codebook_low = rounded(codebook - codebook_high, bits)
    return z_high @ codebook_high.T + (z_high @ codebook_low.T + z_low @ codebook_high.T)


@torch.no_grad()
def latents_of(vqgan, pictures):
    """The vectors (N, D) for which a VQGAN looks for codes."""
    parts = []
    for rows in torch.arange(len(pictures)).split(64):
        z_e = vqgan.encode(pictures.batch(rows).to(device_))  # (64, D, h, w)
        parts.append(z_e.movedim(1, -1).flatten(0, 2))  # (64 h w, D)
    return torch.cat(parts)


# %%
vqgan = load_vqgan(checkpoints_dir() / "emoji-vqgan", device=device_)
held_out = load_captioned("emoji", split="held_out", image_size=64).spread(cfg.pictures)
z_real = latents_of(vqgan, held_out)
table = vqgan.codebook.detach()
half_norms = 0.5 * table.square().sum(1)  # (K,)
exact = torch.cdist(z_real.double(), table.double(),
                    compute_mode="donot_use_mm_for_euclid_dist")  # (N, K)
nearest, right_codes = exact.min(1)
PRECISIONS = {"float32": (23, 1), "TF32 x 3": (10, 2), "TF32": (10, 1), "bfloat16": (7, 1)}
rows = {}
for name, (bits, terms) in PRECISIONS.items():
    codes = (rounded_product(z_real, table, bits, terms) - half_norms).argmax(1)
    distance = exact.gather(1, codes[:, None])[:, 0]  # (N,)
    wrong = (codes != right_codes).double().mean().item()
    farther = (distance / nearest - 1).max().item()
    rows[name] = {"other codes": 100 * wrong, "farther away": 100 * farther}
    run.metric(**{f"other_codes {name}": wrong})
run.keep("exactness", show.Table(
    rows, digits=4, units={"other codes": "%", "farther away": "% at most"},
    note=f"beside float64; {len(z_real)} vectors of {len(held_out)} drawings, {len(table)} codes "
         f"of {table.shape[1]}"))

# %% [markdown]
# ## A Triton program
# A kernel is written for one *program* out of many that run at once. It asks which one it is, loads a tile, calculates
# with whole tiles, and stores. Sizes of tiles are powers of two and known when it is compiled; what sticks out over the
# end is masked. Here is the maximum of each row, with a bug. Rows go to programs, columns come in tiles of 4:

# %%
if HAS_TRITON:
    import triton
    import triton.language as tl

    @triton.jit
    def row_max_kernel(x, best, n, OTHER: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0)  # which program am I?
        most = tl.full((BLOCK,), float("-inf"), tl.float32)
        for first in range(0, n, BLOCK):
            column = first + tl.arange(0, BLOCK)
            # lanes beyond the end get OTHER
            tile = tl.load(x + row * n + column, mask=column < n, other=OTHER)
            most = tl.maximum(most, tile)
        tl.store(best + row, tl.max(most, axis=0))


def row_max(x, other):
    best = torch.empty(len(x), device=x.device)
    row_max_kernel[(len(x),)](x, best, x.shape[1], OTHER=other, BLOCK=4)
    return best


def listed(maxima):
    return {f"row {i}": value for i, value in enumerate(maxima.tolist())}


x = -1 - noise(2, 6, name="rows").abs()
rows = {"torch": listed(x.amax(1))}
if HAS_TRITON:
    rows["Triton, masked lanes 0"] = listed(row_max(x, 0.0))
    run.keep("row_max", show.Table(rows, baselines=["torch"]))

# %% [markdown]
# Zero, for rows in which everything is negative. In the interpreter a kernel is Python: `breakpoint()` stops in it,
# and `tl.device_print` shows a tile (on a GPU too). Look at the second one:

# %%
if HAS_TRITON:
    @triton.jit
    def show_tiles_kernel(x, n, BLOCK: tl.constexpr):
        for first in range(0, n, BLOCK):
            column = first + tl.arange(0, BLOCK)
            tl.device_print("tile", tl.load(x + column, mask=column < n, other=0.0))

    show_tiles_kernel[(1,)](x[:1].contiguous(), 6, BLOCK=4)
    mended = row_max(x, float("-inf"))
    torch.testing.assert_close(mended, x.amax(1))
    rows["Triton, masked lanes -inf"] = listed(mended)
    run.keep("row_max_mended", show.Table(rows, baselines=["torch"]))

# %% [markdown]
# The masked lanes hold 0, and 0 is more than anything in these rows. What a masked lane must hold is whatever changes
# nothing: $-\infty$ for a maximum, 0 for a sum. A size that is no multiple of the tile finds this bug, a round one
# never does. That is why tests of kernels want odd sizes.
#
# ## The library's kernel, line by line
# The running best once more. Each program takes some rows and walks over the codebook; `tl.dot` adds up products of
# tiles; two numbers for each row are all it keeps.

# %%
kernels = sys.modules[nearest_code.__module__]
print(inspect.getsource(kernels._nearest_code_kernel.fn) if HAS_TRITON else "no Triton here")

# %% [markdown]
# 1. `rows` are 64 bits wide: N times D may pass $2^{31}$.
# 2. `begin` and `part`: with few rows there would be few programs, and most of the GPU idle. Then the codebook is cut
#    as well, and the best of the parts is found afterwards, among a few numbers for each row.
# 3. Everything is measured from the codebook's mean (`middle`). It changes no distance, and keeps the sum from
#    cancelling where all vectors are far from zero.
# 4. Whatever the inputs are, tiles become float32 as soon as they are loaded, and sums are float32.
# 5. `input_precision="tf32x3"`: tensor cores, with the three products from above.
# 6. `top > best`, not `>=`: of equally near codes the first one wins, on every device.
#
# **Check** it against torch where it can go wrong: one row, odd sizes, transposed and half-precision inputs.

# %%
if HAS_TRITON:
    for n, k, d in ((1, 1, 1), (3, 129, 5), (cfg.triton_rows, 300, 33)):
        z = noise(n, d, name="z")
        codebook = noise(d, k, name="codebook").T
        by_kernel = nearest_code(z, codebook, backend="triton")
        assert torch.equal(by_kernel, nearest_code(z, codebook, backend="torch"))
        half = z.bfloat16()
        by_kernel = nearest_code(half, codebook, backend="triton")
        assert torch.equal(by_kernel, by_differences(half.float(), codebook))
    print("the kernel and torch choose the same codes")

# %% [markdown]
# `backend="auto"` takes a Triton kernel on a GPU where it was measured to be faster than torch *and* than
# `torch.compile`. These kernels have not been timed on one yet, so `auto` takes torch everywhere, and only
# `backend="triton"`, or `with use_backend("triton"):`, runs them. A kernel that turns out to gain nothing goes.
#
# ## Two passes in the place of many
# Group normalisation and SiLU open every residual block of a VQGAN and of a U-Net:
#
# $$y = u\,\sigma(u), \qquad u = w_c\,\frac{x - \mu_g}{\sqrt{\sigma_g^2 + \varepsilon}} + b_c .$$
#
# Step by step, nearly each line reads a whole picture and writes one. Fused: one pass for the statistics, one that
# normalises, scales and applies SiLU. Backward likewise: one pass for the sums over groups, one for the gradient. What
# torch keeps for the backward counts as well:

# %%
def step_by_step(x, weight, bias, groups, eps):
    grouped = x.unflatten(1, (groups, -1))  # (B, groups, C / groups, H, W)
    mean = grouped.mean((2, 3, 4), keepdim=True)
    centred = grouped - mean
    deviation = (centred.square().mean((2, 3, 4), keepdim=True) + eps).sqrt()
    standard = (centred / deviation).flatten(1, 2)  # (B, C, H, W)
    u = standard * weight[:, None, None] + bias[:, None, None]
    return u * u.sigmoid()


def two_calls(x, weight, bias, groups, eps):
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def forward_and_backward(function, inputs, upstream):
    """Result and gradients, and the bytes that were kept in between."""
    saved = {}

    def keep(tensor):
        return saved.setdefault(tensor.data_ptr(), tensor)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = function(*inputs, 8, 1e-6)
    gradients = torch.autograd.grad(y, inputs, upstream)
    return [y, *gradients], sum(tensor.nbytes for tensor in saved.values())


# %%
x = noise(2, 32, 64, 64, name="x").contiguous(memory_format=torch.channels_last).requires_grad_()
weight = noise(32, name="weight").requires_grad_()
bias = noise(32, name="bias").requires_grad_()
upstream = noise(2, 32, 64, 64, name="upstream")
functions = {"step by step": step_by_step, "two calls": two_calls}
if HAS_TRITON:
    functions["fused, Triton"] = functools.partial(group_norm_silu, backend="triton")
rows = {}
results = {}
for name, function in functions.items():
    results[name], saved = forward_and_backward(function, (x, weight, bias), upstream)
    peak = peak_mib(forward_and_backward, function, (x, weight, bias), upstream)
    rows[name] = {"kept": saved / x.nbytes, "at the peak": peak / (x.nbytes / 2**20)}
    torch.testing.assert_close(results[name], results["step by step"], rtol=1e-3, atol=1e-3)
units = {"kept": "sizes of x", "at the peak": "sizes of x"}
run.keep("norm_memory", show.Table(rows, digits=1, units=units, best="-at the peak",
                                   note="kept: by the forward pass, for the backward"))

# %% [markdown]
# All give the same values and the same three gradients. The kernels behind it, forward:

# %%
norms = sys.modules["t2ilib.kernels._group_norm_silu_triton"]
if HAS_TRITON:
    for kernel in (norms._moments_kernel, norms._apply_kernel):
        print(inspect.getsource(kernel.fn))

# %% [markdown]
# - A tile covers some channels and some positions, wherever they lie: `x_b, x_c, x_p` are strides, so that one kernel
#   serves both layouts, and the shape of the tile follows the one that lies dense.
# - A picture of 400 pixels has groups of 640,000 numbers, too many for one program. So each tile gives its mean and its
#   sum of squares *from that mean*, and these few are put together afterwards (Chan et al. 1983). The mean of squares
#   minus the square of the mean would cancel.
# - No atomic additions: their order changes from run to run, and with it the last bits.
#
# ## Where a hand-written backward goes wrong
# WGAN-GP punishes the gradient of the critic, $(|\nabla_x f| - 1)^2$, so training differentiates a gradient. A backward
# that is a kernel leaves no trace for that. No error: the penalty's gradient is simply wrong. Here is SiLU like this:

# %%
class Blind(torch.autograd.Function):
    """SiLU with a backward of its own, as a kernel has it: numbers out, no graph."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.inputs_saved = 1
        ctx.constants = {}
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            sigmoid = x.sigmoid()
            return grad.detach() * sigmoid * (1 + x * (1 - sigmoid))


class Guarded(Blind):
    backward = staticmethod(second_order_via(F.silu)(Blind.backward))


# %% [markdown]
# `second_order_via` needs one observation: inside `backward`, grad mode is on exactly when somebody wants to
# differentiate once more. Then the gradient is taken from the reference, with a graph; otherwise the kernel runs.

# %%
print(inspect.getsource(second_order_via).split('"""')[-1])
critic_weight = noise(6, 6, name="weight")
rows = {}
for name, silu in {"torch": F.silu, "blind": Blind.apply, "guarded": Guarded.apply}.items():
    x = noise(4, 6, name="critic").requires_grad_()
    weight = critic_weight.clone().requires_grad_()
    (slope,) = torch.autograd.grad(silu(x @ weight).sum(), x, create_graph=True)
    penalty = (slope.norm(dim=1) - 1).square().mean()
    (gradient,) = torch.autograd.grad(penalty, weight)
    rows[name] = {"penalty": penalty.item(), "length of its gradient": gradient.norm().item()}
    run.metric(**{f"penalty_gradient {name}": gradient.norm().item()})
run.keep("penalty_gradients", show.Table(rows, digits=4, baselines=["torch"]))

# %% [markdown]
# The penalty itself is right, so no curve looks suspicious. The library's kernels are all guarded like this, and their
# tests compare second derivatives with the reference's, for a linear and for a parametrised head. **Check** one:

# %%
x = noise(2, 8, 4, 4, name="x").requires_grad_()
weight = noise(8, name="weight").requires_grad_()
bias = noise(8, name="bias").requires_grad_()
gradients = []
for backend in ("torch", "triton") if HAS_TRITON else ("torch",):
    y = group_norm_silu(x, weight, bias, 4, backend=backend)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad((slope.norm() - 1).square(), weight)
    gradients.append(gradient)
torch.testing.assert_close(gradients[0], gradients[-1], rtol=1e-3, atol=1e-3)
print("second derivatives agree")

# %% [markdown]
# ## Cutouts
# VQGAN+CLIP shows its picture to CLIP in many pieces. The public loop crops and resizes each: dozens of small launches,
# forward and backward. `cutouts` takes all of them in one warp, tilted ones too: a matrix with a third row is a
# perspective. Where a piece is larger than what CLIP takes, it reads from averaged copies (a mip map, Williams 1983),
# else fine lines would vanish between the samples. Backward, a pixel that several pieces saw gets the sum of what they
# say. The Triton kernel turns that round: each pixel asks every piece, through the inverse matrix, where it would lie
# in it, and gathers, so that no two programs write to one place and every run gives the same bits.

# %%
drawings = load_captioned("emoji", split="train", image_size=128, limit=6)
picture = to_unit(drawings.batch([5]).to(device_))
stripes = (torch.arange(128, device=device_) % 2).float().expand(1, 3, 128, 128)
scales = torch.tensor([1.0, 0.7, 0.45, 0.25])
theta = torch.stack([scale * torch.eye(2, 3) for scale in scales])  # (4, 2, 3)
tilted = F.pad(theta, (0, 0, 0, 1))  # (4, 3, 3): the third row divides
tilted[:, 2] = torch.tensor([[0.4, 0, 1], [0, 0.4, 1], [-0.4, 0, 1], [0, -0.4, 1]])
pictures = {}
for name, x in {"drawing": picture, "stripes": stripes}.items():
    for label, antialias in {"filtered": True, "plain": False}.items():
        pieces = cutouts(x, theta, 32, antialias=antialias)  # (1, 4, 3, 32, 32)
        pictures[f"{name}, {label}"] = pieces[0].cpu()
pictures["drawing, tilted"] = cutouts(picture, tilted, 32)[0].cpu()
titles = [f"{scale:.0%} of the side" for scale in scales.tolist()]
run.keep("cutouts", show.compare(pictures, titles=titles, scale=1.2), thumbnail=True)

# %% [markdown]
# ## Measured here
# Each operation beside what others offer, in turns, on this machine: forward and backward. There is a table for each
# size, with the median time, the 20th to the 80th percentile, and the *speed-up* over the plain `eager` form. *Share*:
# of the roof, the fastest time that this machine's copies and products allow, whoever writes the program.

# %%
def measure_here(number, case):
    """Time the providers of a case, and keep a table of them."""
    last_mode = replace(case, modes=case.modes[-1:])  # forward and backward, where there is one
    found = list(case_rows(last_mode, rates, device_, cfg.seconds))
    shares = {row.provider: 100 * row.p50 for row in found if row.metric == "of roofline"}
    rows = {}
    for row in found:
        if row.metric == "ms":
            rows[row.provider] = timed(row) | {"share": shares[row.provider]}
    table = show.Table(rows, title=f"{case.kernel}, {case.shape}",
                       digits={"time": 2, "speed-up": 2, "share": 0},
                       **TIMED | {"units": {"time": "ms", "share": "% of the roof"}})
    run.keep(f"here_{number:02}_{case.kernel}", table)


number = 0
for cases in CASES.values():
    for case in list(cases(device_))[:cfg.cases or None]:  # 0: every size
        measure_here(number, case)
        number += 1

# %% [markdown]
# And what stands in `reports/benchmarks/kernels.csv`, written by `python -m t2ilib bench kernels`, which also has
# `torch.compile` and Triton where there is a GPU. Each bar names the device it was measured on; those of this library
# are orange.

# %%
def benchmark_rows(name):
    """Rows of a benchmark's CSV: measured here, or the committed ones."""
    path = reports_dir() / "benchmarks" / f"{name}.csv"
    if not path.exists():
        path = repo_root() / "reports" / "benchmarks" / f"{name}.csv"
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def is_shown(row):
    mode = "forward" if row["kernel"] == "nearest_code" else "full"  # codes have no backward
    return row["metric"] == "of roofline" and row["mode"] == mode


# %%
measured = benchmark_rows("kernels")
print("devices:", ", ".join(sorted({row["device"] for row in measured})))
shares = [row for row in measured if is_shown(row)]
labels = []
colours = []
for row in shares:
    name = f"{row['kernel']} {row['shape']}"
    labels.append(f"{name}: {row['provider']}, {row['device'][:12]}")
    colours.append("C1" if row["provider"] in ("t2ilib", "triton") else "C0")
figure, axis = plt.subplots(figsize=(7.0, 0.22 * len(shares) + 0.8))
axis.barh(range(len(shares)), [float(row["p50"]) for row in shares], color=colours)
axis.set(yticks=range(len(shares)), xlabel="share of the roofline", xlim=(0, 1))
axis.set_yticklabels(labels, fontsize=7)
axis.invert_yaxis()
figure.tight_layout()
run.keep("roofline", figure)

# %% [markdown]
# Is this library faster than the plain form, then? On each device, for each operation, over its sizes and memory
# layouts, forward and backward together (`nearest_code`: forward):

# %%
def speed_ups(rows):
    """device, operation -> our speed-up over `eager` for each size."""
    found = {}
    for row in rows:
        mode = "forward" if row["kernel"] == "nearest_code" else "full"
        if row["metric"] == "ms" and row["provider"] == "t2ilib" and row["mode"] == mode:
            found.setdefault((row["device"], row["kernel"]), []).append(float(row["ratio"]))
    return found


rows = {}
for (device_name, kernel), ratios in speed_ups(measured).items():
    faster = sum(ratio > 1 for ratio in ratios)
    rows[f"{kernel}, {device_name}"] = {"faster than eager": f"{faster} of {len(ratios)}",
                                        "least": min(ratios), "most": max(ratios)}
run.keep("speed_ups", show.Table(rows, digits=2, units={"least": "times", "most": "times"},
                                 note="speed-up of t2ilib over eager, from kernels.csv"))

# %% [markdown]
# ## Look before you write
# The operations that take most of one training step, or of one step of guidance, from `python -m t2ilib bench profile`.
# A kernel in the place of one of them can save its share and no more. On a CPU products and convolutions take most of
# it, which others have written well; the rest is spread over many small operations. On a GPU those are fast, and what
# only moves bytes weighs more: there these tables decide what is worth a program.

# %%
steps = {}
for row in benchmark_rows("profile"):
    if row["metric"] == "ms":
        steps.setdefault((row["device"], row["mode"]), []).append(row)
for number, ((device_name, notebook), parts) in enumerate(steps.items()):
    rows = {}
    for row in parts[:6]:  # the whole step, and the five operations that take most
        rows[row["provider"]] = {"time": float(row["p50"]), "p20": float(row["p20"]),
                                 "p80": float(row["p80"]), "share": 100 / float(row["ratio"])}
    title = f"{notebook}: {parts[0]['shape']}; {device_name}"
    run.keep(f"profile_{number}", show.Table(
        rows, title=title, units={"time": "ms", "share": "%"}, digits={"time": 1, "share": 0},
        intervals={"time": ("p20", "p80")}, baselines=["whole step"]))

# %% [markdown]
# ## What a GPU should gain: a prediction
# From data sheets, not measured here: an A100 moves 1,555 GB/s and does 19.5 TFLOP/s in float32, 156 in TF32. What the
# plain formula must move and what the fused one must move, divided by that. A prediction like this comes before the
# kernel, and the measurement after it: where they disagree there is something to learn.

# %%
BANDWIDTH = 1555e9  # bytes a second
FLOAT32 = 19.5e12  # operations a second
TF32 = 156e12
UNITS = {"all distances": "ms", "two calls": "ms", "fused": "ms", "gain": "times"}
DIGITS = {"all distances": 2, "two calls": 2, "fused": 2, "gain": 1}
NOTE = "computed from the data sheet of an A100, not measured"
rows = {}
for n, k, d in ((625, 16384, 256), (16384, 512, 256), (131072, 8192, 64)):
    flop = 2 * n * k * d
    # the product is written, read, combined and written, and read for argmin
    plain = flop / FLOAT32 + 4 * n * k * 4 / BANDWIDTH
    fused = max(3 * flop / TF32, 4 * (n * d + k * d + n) / BANDWIDTH)
    rows[f"{n}x{d}, K={k}"] = {"all distances": 1e3 * plain, "fused": 1e3 * fused,
                               "gain": plain / fused}
run.keep("predicted_codes", show.Table(rows, title="nearest code", units=UNITS, digits=DIGITS,
                                       note=NOTE))
rows = {}
for count, channels, side in ((1, 128, 400), (64, 96, 32)):
    size = 2 * count * channels * side**2  # bytes in bfloat16
    plain = (5 + 8) * size / BANDWIDTH  # passes forward and backward
    fused = (3 + 5) * size / BANDWIDTH
    rows[f"{count}x{channels}x{side}x{side}"] = {"two calls": 1e3 * plain, "fused": 1e3 * fused,
                                                 "gain": plain / fused}
run.keep("predicted_norm", show.Table(rows, title="norm and SiLU", units=UNITS, digits=DIGITS,
                                      note=NOTE))

# %% [markdown]
# ## What these numbers say, and what they do not
# - The roof is this machine's own, measured with one copy and one product. On a CPU, what fits into the cache moves
#   faster than a large copy, so a share may be high although bytes are wasted.
# - `LiveBytes` counts tensors. What an operation takes and gives back inside itself it does not see.
# - Fewer passes are not always less time. `nearest_code` gains on the CPU of the table, for it saves all the distances.
#   The other two must be looked at row by row: *faster than eager* counts the sizes where fusing pays, and where
#   *least* is below 1 there is a size for which the plain form is the better choice.
# - The interpreter proves values. It knows nothing of races, of shared memory, or of speed.
# - No Triton kernel of this repository has been timed on a GPU so far: a test only compiles all of them to machine
#   code for one. The two tables of predictions are arithmetic on data sheets.
#
# ## A slider
# How wide may a piece be before plain sampling loses the stripes? Filtered above, plain below.

# %%
def piece(scale):
    theta = scale * torch.eye(2, 3)[None]  # (1, 2, 3)
    filtered = cutouts(stripes, theta, 32, antialias=True)[0]  # (1, 3, 32, 32)
    plain = cutouts(stripes, theta, 32, antialias=False)[0]
    return torch.cat([filtered, plain], dim=2)[0].cpu()


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(piece, [0.2, 0.25, 0.4, 0.6, 0.8, 1.0], label="share of the side")

# %% [markdown]
# ## Summary
# - Count bytes first. An operation done number by number waits for memory, and fusing it saves passes, not arithmetic.
# - A running best in the place of all distances keeps N numbers and one block of distances in the place of N K, without
#   giving up a single choice.
# - Masked lanes must hold what changes nothing; odd sizes find the bug; the interpreter shows it.
# - A kernel's backward has no graph. Guard it, and test second derivatives.
#
# ## Exercise: the nearest code, tile by tile
# **Write these lines**: for each vector the index of its nearest code, while only `tile` codes are looked at at a time,
# as a kernel does whose memory holds no more. Of equally near codes the first one counts. The check passes when it
# agrees with `nearest_code`, ties included.
#
# <details><summary>Hint</summary>
#
# Keep the smallest distance so far and where it was. A tile replaces both only where it is *strictly* smaller: that is
# what makes the first of equals win.
#
# </details>

# %% tags=["exercise"]
def nearest_by_tiles(z, codebook, tile):
    """Vectors (N, D) and codes (K, D) -> indices (N,)."""
    raise NotImplementedError("write these lines")


def check_nearest_by_tiles(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "exercise")
    z = torch.randn(50, 8, generator=rng)
    codebook = torch.randn(37, 8, generator=rng)
    codebook[30] = codebook[2]  # equally near, in another tile
    z[0] = codebook[2]
    for tile in (5, 16, 64):
        expected = nearest_code(z, codebook, backend="torch")
        assert torch.equal(function(z, codebook, tile), expected)


try:
    check_nearest_by_tiles(nearest_by_tiles)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/11_gpu_kernels.py](solutions/11_gpu_kernels.py).
#
# More exercises:
# 1. Give `row_max_kernel` a second result, where the maximum is. What must happen between tiles for ties?
# 2. Write the sum over rows with `tl.sum`, add up 10,000 times 0.1 in bfloat16 tiles with and without
#    `.to(tl.float32)`, and compare with float64.
# 3. Which share of the roof can `by_distances` reach at most, if N = 625, K = 16,384, D = 256? Count its passes.
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. The running maximum is replaced only where the new one is strictly larger. (Expected: equal to `x.max(dim=1)` on
#    rows with repeated maxima, at every tile size.)
# 2. Adding 0.1 to a sum of 32 changes nothing in bfloat16, which has 8 bits: half a unit there is 0.125. (Expected: a
#    plain bfloat16 sum stops near 32; with float32 it is 1000 to four digits.)
# 3. Bytes it must move at least: z, codes and indices once. Bytes `by_distances` moves: the same, and the N x K matrix
#    written and read. (Expected: z, codes and answer are 17.5 MB. The matrix of 41 MB is passed over six times in eager
#    mode, the codes three times more: about 0.3 GB, a twentieth of the memory roof at most.)
#
# </details>
#
# ## References
# - Williams, Waterman and Patterson 2009, *Roofline: an insightful visual performance model for multicore
#   architectures*, Communications of the ACM 52 (4)
# - Tillet, Kung and Cox 2019, *Triton: an intermediate language and compiler for tiled neural network computations*
# - Dao et al. 2022, *FlashAttention: fast and memory-efficient exact attention with IO-awareness*, arXiv:2205.14135
# - van den Oord, Vinyals and Kavukcuoglu 2017, *Neural discrete representation learning*, arXiv:1711.00937
# - Wu and He 2018, *Group normalization*, arXiv:1803.08494
# - Chan, Golub and LeVeque 1983, *Algorithms for computing the sample variance*, The American Statistician 37 (3)
# - Gulrajani et al. 2017, *Improved training of Wasserstein GANs*, arXiv:1704.00028
# - Williams 1983, *Pyramidal parametrics*, SIGGRAPH 17 (3)
