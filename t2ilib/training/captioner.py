"""A second captioner: a small BLIP that only writes, so that captions of drawn pictures can measure a method.

It conditions, chooses and filters nothing. It has another width and another seed than `emoji-blip`, and a stem that no
guide has taught. Like the judge it learns from all concepts but one drawing of each, so that it knows the words.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .batches import Batches
from .blip_step import CaptionTraining, draw_blip_batch
from .blip_texts import blip_texts, caption_tokens
from .fabric import make_fabric
from .history import History
from .loop import TrainingLoop
from .schedule import cosine_lr
from ..data.augment import augment
from ..data.captioned import CaptionedImages
from ..data.hard_pairs import partner_rows
from ..data.left_out import left_out_rows
from ..encoders.blip import MEAN, Blip
from ..encoders.emoji_blip import SIZES, BlipPieces, EmojiBlip
from ..media import to_signed
from ..runtime import generator, seed_everything

CAPTIONER = "captioner"
IMAGE_SIZE = 64
LEARNING_RATE = 1e-3
SEED_OFFSET = 1  # `emoji-blip` begins with the seed itself


def split_for_captioner(data: CaptionedImages) -> tuple[CaptionedImages, CaptionedImages]:
    """Return the drawings that the captioner learns from, and those that it never sees: one of each concept.

    Args:
        data: the emoji set, all splits.
    """
    is_left_out = torch.zeros(len(data), dtype=torch.bool)
    is_left_out[left_out_rows(data)] = True
    known = data.select((~is_left_out).nonzero()[:, 0])
    unseen = data.select(is_left_out.nonzero()[:, 0])
    return known, unseen


def varied(data: CaptionedImages, rows: Tensor, rng: torch.Generator) -> Tensor:
    """Return drawings turned, moved and recoloured, as a small BLIP reads them: (B,) -> (B, 3, S, S) in [-1, 1]."""
    return to_signed(augment(data.images[rows], rng))


def train_captioner(data: CaptionedImages, *, steps: int, half: int = 32, ema_decay: float = 0.998, seed: int = 0,
                    size: str = CAPTIONER, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
                    state: Path | None = None, run: Any = None) -> tuple[Blip, History]:
    """Train the second captioner, and return it with the curve of its loss.

    It is trained in this process alone: where several train a method, one of them goes on to measure it.

    Args:
        data: what it learns from, such as the first set of `split_for_captioner`. steps: of training.
        half: of a batch, in which every picture comes with a partner. ema_decay: of the averaged weights.
        seed: of the lesson; the captioner's own weights begin with another one.
        size: one of `encoders.emoji_blip.SIZES`. dtype: of autocast.
        state: file that keeps the training; None keeps none. run: whose record says what was done otherwise.

    Raises:
        BadParameter: all captions are equal. CheckpointMismatch: the state is of another training.
    """
    tokens = caption_tokens(data)
    pieces = BlipPieces(tokens)
    seed_everything(seed + SEED_OFFSET)
    network = EmojiBlip(vocabulary=len(tokens) + 5, **SIZES[size]).to(device).train()
    network.tokens.copy_(torch.tensor(tokens))
    texts = blip_texts(data, pieces, None)
    pairs = partner_rows(data)
    training = CaptionTraining(network, make_fabric(device, dtype, alone=True), ema_decay=ema_decay)
    batches = Batches(len(data), half, generator(seed, CAPTIONER, "batches"))
    stream = generator(seed, CAPTIONER, "training")
    history = History()
    settings = {"seed": seed, "data": data.fingerprint(), "network": network.config, "steps": steps, "half": half,
                "ema_decay": ema_decay}
    parts = training.parts() | {"batches": batches, "stream": stream, "history": history}
    loop = TrainingLoop(steps=steps, state=state, settings=settings, parts=parts, run=run, desc=CAPTIONER)

    def draw_pictures(rows: Tensor, rng: torch.Generator) -> Tensor:
        return varied(data, rows, rng)

    for step in loop:
        batch = draw_blip_batch(batches.next(), pairs, texts, stream, draw_pictures=draw_pictures, phrases=0, names=0)
        rate = cosine_lr(loop.position, steps, peak=LEARNING_RATE, warmup=steps // 20, floor=0.02)
        loss = training.step(batch.to(device), rate)
        history.add(step, loss=loss.item())
    averaged = training.ema.model.network
    reader = Blip(averaged, retrieval=None, captioning=averaged.captioning, name=CAPTIONER, tokenizer=pieces,
                  image_size=IMAGE_SIZE, mean=MEAN, std=MEAN)
    return reader, history
