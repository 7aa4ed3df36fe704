"""The search itself: one step after another, and everything that must be remembered to go on after an interruption."""

from typing import Any

import torch
from torch import Tensor

from .cutout_parameters import CutoutParameters
from .latents import Basis, FreeLatents, SubspaceLatents, resize
from .noise import picture_streams
from .objective import Step, build_terms
from .ops import LatentEMA
from .painting import Corners
from .schedule import lr_factor, optimizer_class, without_compiler
from .setup import RunSetup
from .views import Views, per_region
from ..errors import BadParameter, RunFailed

HALF_SCALE = 2.0**12  # of the loss in float16, whose gradients would vanish otherwise


class Search:
    """Latents, optimiser, average and random streams of a run; `step` moves them.

    Args:
        run: what does not change. z_start: (B, D, h, w), of the first stage's size. basis: for `subspace_steps`.

    Attributes:
        steps_done: how many steps were made. stage: index of the size at which they are made now.

    Raises:
        BadParameter: `subspace_steps` without a basis.
    """

    def __init__(self, run: RunSetup, z_start: Tensor, basis: Basis | None = None):
        config = run.config
        if config.subspace_steps and basis is None:
            raise BadParameter("subspace_steps needs basis=...; build one with Basis.fit(latents, k)")
        self.run = run
        self.z_start = z_start
        self.steps_done = 0
        self.stage = 0
        # the name decides the random numbers, and so the pictures: it stays as it is
        self.distillation_streams = picture_streams(run.seeds, "prior tether")
        self.rows: list[Tensor] = []  # (1 + terms, B) of each step, on the device
        self._begin(SubspaceLatents(z_start, basis) if config.subspace_steps else self._free(z_start))

    def _free(self, z: Tensor) -> FreeLatents:
        return FreeLatents(z, self.run.vqgan.codebook)

    def _begin(self, latents: FreeLatents | SubspaceLatents) -> None:
        """Go on from these latents with a new optimiser and a new average."""
        config = self.run.config
        self.latents = latents
        optimizer = without_compiler(optimizer_class(config.optimizer))
        self.optimizer = optimizer(latents.parameters(), lr=config.learning_rate)
        self.ema = LatentEMA(config.ema)
        start = resize(self.z_start, tuple(latents().shape[-2:]))
        self.terms = build_terms(config, self.run.guides, start, self.run.prior, self.run.prompts,
                                 self.distillation_streams)

    def z(self) -> Tensor:
        """Return the latents that a run would end with now, of the final size: (B, D, h, w)."""
        return resize(self._current(), self.run.painter.size)

    def _current(self) -> Tensor:
        """Return the average of the latents, or themselves where there is none yet."""
        z = self.ema.value() if self.ema.weight else self.latents()
        return z.detach()

    def step(self, fixed: CutoutParameters | Views | None = None) -> tuple[Tensor, Tensor]:
        """Make one step; return the pictures before it (B, 3, H, W), and their losses (B,), without gradients.

        Args:
            fixed: cutouts to use instead of drawn ones, one set or one for each region.
        """
        self._grow()
        self._end_subspace()
        painter = self.run.painter
        size = tuple(self.latents().shape[-2:])
        corners = painter.draw_windows(size)
        if fixed is None:
            views = self.run.views.draw(painter.pixels(painter.decoded_size(size)))
        else:
            views = per_region(fixed, self.run.guides.regions)
        self._set_learning_rate()
        # what the optimiser asked for: once, or several times within one step of LBFGS, first where z is now
        evaluations: list[tuple[Tensor, Tensor]] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            images, row = self._backward(views, corners)
            evaluations.append((images, row))
            return row[0].sum()

        self.optimizer.step(closure)
        self.latents.clamp_()
        self.ema.update(self.latents())
        images, row = evaluations[0]
        self.rows.append(row)
        self.steps_done += 1
        return images, row[0]

    def _grow(self) -> None:
        """Change to the next size where this step is the first that is made at it."""
        stages = self.run.painter.stages
        while self.stage + 1 < len(stages) and self.steps_done >= stages[self.stage].end:
            self.stage += 1
            self._begin(self._free(resize(self._current(), stages[self.stage].size)))

    def _end_subspace(self) -> None:
        """Let every latent move where this step is the first after those in the subspace; the average goes on."""
        if self.steps_done and self.steps_done == self.run.config.subspace_steps:
            ema = self.ema
            self._begin(self._free(self.latents().detach()))
            self.ema = ema

    def _set_learning_rate(self) -> None:
        config = self.run.config
        factor = lr_factor(config.lr_schedule, self.steps_done, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor

    def _backward(self, views: Views, corners: Corners | None) -> tuple[Tensor, Tensor]:
        """Leave the gradient of the loss in the parameters; return pictures and (loss, terms...) as (1 + terms, B)."""
        config = self.run.config
        z = self.latents()
        images = self.run.painter.paint(z, corners)
        step = Step(self.steps_done, z, images, views, self.steps_done / max(config.steps, 1))
        scale = HALF_SCALE if self.run.dtype == torch.float16 else 1.0
        if config.cutout_passes > 1:
            values = self._backward_in_passes(step, scale)
        else:
            values = {name: term(step) for name, term in self.terms.items()}  # each (B,)
            loss = torch.stack(list(values.values())).sum(dim=0)  # (B,)
            # the sum over pictures, so that one picture's step does not depend on the number of the others
            (loss.sum() * scale).backward()
        if scale != 1:
            for p in self.latents.parameters():
                p.grad /= scale
        terms = torch.stack([value.detach() for value in values.values()])  # (terms, B)
        row = torch.cat([terms.sum(dim=0, keepdim=True), terms])
        return images.detach(), row

    def _backward_in_passes(self, step: Step, scale: float) -> dict[str, Tensor]:
        """Leave the gradient in the parameters, with the guides' part of it gathered some cutouts at a time."""
        pictures = step.images.detach().requires_grad_()
        values = {}
        for name, term in self.terms.items():
            values[name] = self._guide_in_passes(pictures, step, scale) if name == "guide" else term(step)
        others = [value.sum() * scale for value in values.values() if value.requires_grad]
        torch.autograd.backward([step.images, *others], [pictures.grad, *map(torch.ones_like, others)])
        return values

    def _guide_in_passes(self, pictures: Tensor, step: Step, scale: float) -> Tensor:
        """Add the guide term's gradient to `pictures.grad`, a part of the cutouts at a time; return its value (B,)."""
        count = next(iter(step.cutouts.values())).matrix.shape[1]
        passes = min(self.run.config.cutout_passes, count)
        edges = torch.linspace(0, count, passes + 1).long().tolist()
        total = 0.0
        for first, end in zip(edges[:-1], edges[1:], strict=True):
            part = {region: cutouts.cutouts(first, end) for region, cutouts in step.cutouts.items()}
            losses = self.run.guides.losses(pictures, part, progress=step.progress)  # (B, G)
            value = losses.sum(dim=1) * (end - first) / count
            (value.sum() * scale).backward()
            total = total + value.detach()
        return total

    def history(self) -> tuple[Tensor, list[dict[str, float]]]:
        """Return losses (steps, B), and of each step the batch mean of the loss and of each term.

        They leave the device here, once, after the loop: reading them in each step would wait for the GPU.

        Raises:
            RunFailed: a loss is not a number.
        """
        if not self.rows:
            return torch.zeros(0, len(self.run.seeds)), []
        table = torch.stack([row.to(self.run.device) for row in self.rows]).cpu()  # (steps, 1 + terms, B)
        losses = table[:, 0]
        bad_steps = (~losses.isfinite()).any(dim=1).nonzero()
        if len(bad_steps):
            raise RunFailed(f"the loss is not a number from step {int(bad_steps[0])} on; try a smaller learning_rate, "
                            "or precision='float32'")
        names = ["loss", *self.terms]
        history = []
        for index, means in enumerate(table.mean(dim=2).tolist()):
            history.append({"step": index, **dict(zip(names, means, strict=True))})
        return losses, history

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on exactly from here."""
        return {"done": self.steps_done, "stage": self.stage, "z_start": self.z_start,
                "latents": [p.detach() for p in self.latents.parameters()], "optimizer": self.optimizer.state_dict(),
                "ema": {"sum": self.ema.sum, "weight": self.ema.weight}, "rows": self.rows,
                "streams": [g.get_state() for g in self._streams()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.steps_done = state["done"]
        self.stage = state["stage"]
        self.rows = list(state["rows"])
        subspace_steps = self.run.config.subspace_steps
        if subspace_steps and self.steps_done > subspace_steps:  # every latent was free to move
            self._begin(self._free(self.z_start))
        elif self.stage:
            self._begin(self._free(resize(self.z_start, self.run.painter.stages[self.stage].size)))
        with torch.no_grad():
            for parameter, saved in zip(self.latents.parameters(), state["latents"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.sum = state["ema"]["sum"]
        self.ema.weight = state["ema"]["weight"]
        if self.ema.sum is not None:
            self.ema.sum = self.ema.sum.to(self.run.device)
        for g, saved in zip(self._streams(), state["streams"], strict=True):
            g.set_state(saved)

    def _streams(self) -> list[torch.Generator]:
        """Return all random streams that the steps read, always in the same order."""
        cutout_streams = [g for streams in self.run.views.streams.values() for g in streams]
        return [*cutout_streams, *self.run.painter.window_streams, *self.distillation_streams]
