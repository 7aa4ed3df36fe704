"""MinImagen's training: the step of notebook 08 and the public package's, on the same material."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .classic_imagen import ClassicImagen, encode_each
from .imagen_variants import BATCHES, Material, Shape, Variant
from .measure import Contest, Row, precision
from .memory import held_mib
from ..cascade import downsample, draw_low_resolution_condition
from ..encoders import load_text_encoder
from ..runtime import generator
from ..training import DiffusionBatch, DiffusionTraining, draw_diffusion_batch, make_fabric

RESIDENT = ("classic", "ours", "ours, float32")  # whose whole process is measured


class ClassicLoop:
    """The public package's loop on the material."""

    def __init__(self, material: Material, variant: Variant):
        self.material = material
        self.imagen = ClassicImagen(material.copy_of_network(variant), material.text_encoder, dtype=variant.dtype,
                                    low_size=material.shape.low_size)
        self.pictures = material.pictures.to(material.device)
        self.done = 0

    def step(self) -> Tensor:
        captions = [self.material.captions[i] for i in self.material.rows(self.done)]
        self.done += 1
        return self.imagen.step(self.pictures, captions)

    def held_mib(self) -> float:
        """Return MiB of weights and two moments, and of the text encoder."""
        weights = held_mib(self.imagen.network, device=self.material.device)
        return 3 * weights + held_mib(self.material.text_encoder.model, device=self.material.device)


class RecipeLoop:
    """The training step of notebook 08 on the material."""

    def __init__(self, material: Material, variant: Variant):
        self.material = material
        self.variant = variant
        fused = material.device.type != "mps"
        self.training = DiffusionTraining(material.copy_of_network(variant),
                                          make_fabric(material.device, variant.dtype), fused=fused)
        self.stream = generator(0, "bench", "imagen")
        self.done = 0

    def draw(self) -> DiffusionBatch:
        """Return the next batch, with texts as the variant reads them."""
        material = self.material
        low = ()
        if material.shape.low_size is not None:
            small = downsample(material.pictures, material.shape.low_size)
            low = draw_low_resolution_condition(small, material.shape.size, self.stream)
        rows = material.rows(self.done)
        self.done += 1
        batch = draw_diffusion_batch(material.pictures, torch.tensor(rows)[:, None], material.features, self.stream,
                                     low=low, device=material.device)
        if self.variant.encode_in_loop:
            captions = [material.captions[i] for i in rows]
            return replace(batch, text=encode_each(material.text_encoder, captions, material.device))
        if self.variant.tokens is not None:
            tokens, mask, pooled = batch.text
            missing = self.variant.tokens - mask.shape[1]
            padded = (F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing)), pooled)
            return replace(batch, text=padded)
        return batch

    def step(self) -> Tensor:
        return self.training.step(self.draw())

    def held_mib(self) -> float:
        """Return MiB of weights, two moments and the average, and of the text encoder if it reads in the loop."""
        found = 4 * held_mib(self.training.network, device=self.material.device)
        if self.variant.encode_in_loop:
            found += held_mib(self.material.text_encoder.model, device=self.material.device)
        return found


def make_loop(material: Material, variant: Variant) -> ClassicLoop | RecipeLoop:
    """Return a variant's loop."""
    return ClassicLoop(material, variant) if variant.classic else RecipeLoop(material, variant)


def two_steps(shape: Shape, variant: Variant, captions: Sequence[str]) -> None:
    """Build one variant on the CPU and make two steps: what a process of its own does, whose memory is measured."""
    device = torch.device("cpu")
    loop = make_loop(Material(shape, device, load_text_encoder("minilm", device=device), captions), variant)
    loop.step()
    loop.step()


def training_rows(material: Material, found: Sequence[Variant], seconds: float, least: int, *,
                  resident: bool = False) -> Iterator[Row]:
    """Pictures a second and memory of all variants.

    Args:
        resident: measure the memory of a whole process too, with MiniLM on the CPU.
    """
    contest = Contest("minimagen", material.shape.name, material.device)
    for variant in found:
        loop = make_loop(material, variant)
        compiled = BATCHES if variant.compiled else 0  # each batch has a length of its own
        contest.add(variant.name, loop.step, dtype=precision(variant.dtype, material.device), held=loop.held_mib(),
                    compiled=compiled)
    for row in contest.time_rows("training", seconds, least):
        yield row.per_second(material.shape.batch, "pictures")
    yield from contest.memory_rows()
    yield from contest.compilation_rows("compilation for training")
    if resident:
        processes = {}
        for variant in found:
            if variant.name in RESIDENT:
                processes[variant.name] = (two_steps, (material.shape, variant, material.captions))
        yield from contest.resident_rows(processes)
