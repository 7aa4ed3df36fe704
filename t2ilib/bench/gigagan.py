"""GigaGAN-lite beside the public package `gigagan-pytorch`: a training step and a picture, at equal widths.

The package's own networks and its own two training functions are timed, without its loop around them. Its texts come
from a stand-in for its CLIP, which costs nothing on either side.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from .measure import Contest, Row, noise, precision, short_name
from .memory import held_mib
from ..errors import MissingAsset
from ..models.gigagan import GigaDiscriminator, GigaGenerator
from ..runtime import autocast, generator, pick_dtype
from ..training.text_gan_step import Text, TextGanBatch, TextGanRule, TextGanTraining, mismatch

PEER = "gigagan-pytorch"
TEXT_DIM = 384
TEXT_TOKENS = 8  # as captions of the emoji set have
STYLE_DIM = 192
HEADS = 4
FILTERS = 4
WIDEST = 128
NARROWEST = 32  # channels at the largest side; doubled with each halving, up to the widest
ATTENTION = (8, 16)  # sides of the generator
JUDGE_ATTENTION = (16,)


@dataclass(frozen=True)
class Shape:
    """What both train on: pictures of some side, of which the discriminators read halvings too.

    Attributes:
        reads: sides that the discriminator reads, from `size` down.
    """

    size: int
    batch: int
    reads: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.size} px, batch {self.batch}, reads {', '.join(str(side) for side in self.reads)}"

    @property
    def widths(self) -> list[int]:
        """Return channels at 4 pixels, 8, ... up to `size`."""
        found = []
        width = NARROWEST
        side = self.size
        while side >= 4:
            found.append(min(width, WIDEST))
            width = 2 * width
            side = side // 2
        return found[::-1]


SHAPES = (Shape(64, 8, (64, 32, 16)), Shape(128, 4, (128, 64, 32, 16)))


class ClassicGigaGan:
    """The package's networks and training functions, at the widths of a shape.

    Args:
        dtype: of its autocast; float32 is none.

    Raises:
        MissingAsset: the package is not installed.
    """

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32):
        try:
            from accelerate.state import AcceleratorState
            from gigagan_pytorch import GigaGAN
            from gigagan_pytorch.gigagan_pytorch import Discriminator, Generator, StyleNetwork, TextEncoder
        except ImportError as error:
            raise MissingAsset(f"the benchmark compares with the package {PEER}, which cannot be imported ({error}): "
                               f"pip install {PEER}") from error
        self.shape = shape
        self.device = device

        def text_encoder() -> nn.Module:
            return TextEncoder(dim=TEXT_DIM, depth=1, heads=HEADS, dim_head=TEXT_DIM // HEADS, clip=_stand_in(device))

        torch.manual_seed(0)
        width = dict(dim_capacity=NARROWEST // 2, dim_max=WIDEST, image_size=shape.size)
        net = Generator(**width, text_encoder=text_encoder(), num_conv_kernels=FILTERS,
                        style_network=StyleNetwork(dim=STYLE_DIM, depth=3, dim_text_latent=TEXT_DIM),
                        self_attn_resolutions=ATTENTION, cross_attn_resolutions=ATTENTION,
                        self_attn_heads=HEADS, self_attn_dim_head=WIDEST // HEADS,
                        cross_attn_heads=HEADS, cross_attn_dim_head=WIDEST // HEADS)
        critic = Discriminator(**width, text_encoder=text_encoder(), attn_resolutions=JUDGE_ATTENTION,
                               attn_heads=HEADS, attn_dim_head=WIDEST // HEADS,
                               multiscale_input_resolutions=shape.reads[1:])
        # accelerate keeps one precision for the whole process, refuses another, and has no public way to forget it; a
        # process for each precision would part what is timed in turns on one machine
        AcceleratorState._reset_state(reset_partial_state=True)
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            self.gan = GigaGAN(generator=net, discriminator=critic, generator_contrastive_loss_weight=0.0,
                               create_ema_generator_at_init=False, model_folder=f"{folder}/m",
                               results_folder=f"{folder}/r", amp=dtype != torch.float32, mixed_precision_type="bf16",
                               accelerate_kwargs={"cpu": device.type == "cpu"})
        self.real = noise(shape.batch, 3, shape.size, shape.size, device=device, name="real").clamp(-1, 1)
        self.texts = [str(i) for i in range(shape.batch)]

    def batches(self) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield the same pictures and texts again and again."""
        while True:
            yield self.real.clone(), list(self.texts)

    def step(self) -> None:
        """Train its discriminator, with right and wrong texts, then its generator."""
        self.gan.train_discriminator_step(self.batches(), calc_multiscale_loss=True)
        self.gan.train_generator_step(self.shape.batch, self.batches(), calc_multiscale_loss=True)

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Return pictures of all texts."""
        return self.gan.G(texts=self.texts, batch_size=self.shape.batch)

    def held_mib(self) -> float:
        """Return MiB of weights and two moments of both networks."""
        return 3 * held_mib(self.gan.G, self.gan.D, device=self.device)


def _stand_in(device: torch.device) -> Any:
    """Return what the package takes for a CLIP: every text is the same few vectors."""
    from gigagan_pytorch.open_clip import OpenClipAdapter

    class StandIn(OpenClipAdapter):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self._dim_latent = TEXT_DIM
            self.tokens = noise(1, TEXT_TOKENS, TEXT_DIM, device=device, name="tokens")

        def embed_texts(self, texts: list[str]) -> tuple[Tensor, Tensor]:
            tokens = self.tokens.expand(len(texts), -1, -1)
            return tokens[:, 0], tokens

    return StandIn()


class OurGigaGan:
    """The networks and the training step of notebook 07, at the widths of a shape."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32):
        self.device = device
        self.dtype = dtype
        torch.manual_seed(0)
        size = dict(image_size=shape.size, widths=shape.widths)
        net = GigaGenerator(**size, attention=ATTENTION, heads=HEADS, filters=FILTERS, style_dim=STYLE_DIM,
                            text_dim=TEXT_DIM, text_depth=1)
        critic = GigaDiscriminator(**size, reads=shape.reads, attention=JUDGE_ATTENTION, heads=HEADS,
                                   text_dim=TEXT_DIM)
        self.training = TextGanTraining(net.to(device), critic.to(device), TextGanRule(clip=0.0, r1=0.0), dtype=dtype)
        self.real = noise(shape.batch, 3, shape.size, shape.size, device=device, name="real").clamp(-1, 1)
        tokens = noise(1, TEXT_TOKENS, TEXT_DIM, device=device, name="tokens").expand(shape.batch, -1, -1)
        mask = torch.ones(shape.batch, TEXT_TOKENS, dtype=torch.bool, device=device)
        self.text: Text = (tokens, mask, tokens[:, 0])
        self.z = noise(shape.batch, net.latent_dim, device=device, name="z")
        self.wrong = self.text[2][mismatch(torch.arange(shape.batch), generator(0, "bench", "gigagan"))]

    def step(self) -> None:
        """Train the discriminator, with right and wrong texts, then the generator and its average."""
        self.training.step(TextGanBatch(self.real, self.text, self.z, self.wrong))

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Return pictures of all texts."""
        with autocast(self.device, self.dtype):
            return self.training.generator(self.z, *self.text)[0]

    def held_mib(self) -> float:
        """Return MiB of weights and two moments of both networks, and of the average."""
        training = self.training
        both = held_mib(training.generator, training.discriminator, device=self.device)
        return 3 * both + held_mib(training.ema.model, device=self.device)


def gigagan_rows(device: torch.device, seconds: float, *, shapes: Sequence[Shape] = SHAPES,
                 least: int = 3) -> Iterator[Row]:
    """Pictures a second in training, pictures a second drawn, and memory of a step, beside the package.

    One step trains the discriminator with right and wrong texts at several sides, and the generator; without the
    penalty on gradients and the CLIP loss, which either can leave out.

    Args:
        least: timed calls of each provider.

    Raises:
        MissingAsset: the package is not installed.
    """
    fast = pick_dtype(device)
    for shape in shapes:
        for dtype in dict.fromkeys((torch.float32, fast)):
            kind = "" if dtype == torch.float32 else f", {short_name(dtype)}"
            games: dict[str, Any] = {}
            if dtype in (torch.float32, torch.bfloat16):  # which the package can be told
                games[f"classic{kind}"] = ClassicGigaGan(shape, device, dtype)
            games[f"ours{kind}"] = OurGigaGan(shape, device, dtype)
            yield from _rows_of(games, shape, device, dtype, seconds, least)


def _rows_of(games: dict[str, Any], shape: Shape, device: torch.device, dtype: torch.dtype, seconds: float,
             least: int) -> Iterator[Row]:
    """Yield the rows of games of one precision; the first is what the others are compared with."""
    for mode in ("training", "drawing"):
        contest = Contest("gigagan", shape.name, device, baseline=next(iter(games)))
        for name, game in games.items():
            work = game.step if mode == "training" else game.draw
            contest.add(name, work, dtype=precision(dtype, device), held=game.held_mib())
        for row in contest.time_rows(mode, seconds, least):
            yield row.per_second(shape.batch, "pictures")
        if mode == "training":
            yield from contest.memory_rows()
