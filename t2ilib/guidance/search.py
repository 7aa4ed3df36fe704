"""The search itself: one step after another, and everything that must be remembered to go on after an interruption."""

from typing import Any

import torch
from torch import Tensor

from .latents import Basis, FreeLatents, SubspaceLatents, resize
from .objective import Step, Views, build_terms
from .ops import LatentEMA
from .schedule import lr_factor, optimizer_class
from .setup import RunSetup
from ..errors import BadParameter, RunFailed

HALF_SCALE = 2.0**12  # of the loss in float16, whose gradients would vanish otherwise


class Search:
    """Latents, optimiser, average and random streams of a run; `step` moves them.

    Args:
        run: what does not change. z_start: (B, D, h, w), of the first stage's size. basis: for `subspace_steps`.
    """

    def __init__(self, run: RunSetup, z_start: Tensor, basis: Basis | None):
        config = run.config
        if config.subspace_steps and basis is None:
            raise BadParameter("subspace_steps needs basis=...; build one with Basis.fit(latents, k)")
        self.run, self.done = run, 0
        self.z_start, self.stage = z_start, 0
        self.tether_streams = run.generators("prior tether")
        self.rows: list[Tensor] = []  # (1 + terms, B) of each step, on the device
        self._begin(z_start, SubspaceLatents(z_start, basis) if config.subspace_steps else None)

    def _begin(self, z: Tensor, latents: SubspaceLatents | None = None) -> None:
        """Go on from these latents with a new optimiser."""
        config = self.run.config
        self.latents = latents or FreeLatents(z, self.run.vqgan.codebook)
        self.optimizer = optimizer_class(config.optimizer)(self.latents.parameters(), lr=config.learning_rate)
        self.ema = LatentEMA(config.ema)
        start = resize(self.z_start, tuple(z.shape[-2:]))
        self.terms = build_terms(config, self.run.guides, start, self.run.prior, self.run.prompts, self.tether_streams)

    def z(self) -> Tensor:
        """Return the latents that a run would end with now, of the final size: (B, D, h, w)."""
        z = self.ema.value() if self.ema.weight else self.latents()
        return resize(z.detach(), self.run.size)

    def _enter(self, index: int) -> None:
        """Change to the next size, or leave the subspace, where this step is the first after it."""
        config, stages = self.run.config, self.run.stages
        while self.stage + 1 < len(stages) and index >= stages[self.stage].end:
            self.stage += 1
            z = self.ema.value() if self.ema.weight else self.latents()
            self._begin(resize(z.detach(), stages[self.stage].size))
        if index and index == config.subspace_steps:  # from here on every latent may move
            ema = self.ema
            self._begin(self.latents().detach())
            self.ema = ema

    def step(self, fixed: Views | None = None) -> tuple[Tensor, Tensor]:
        """Make one step; return the pictures before it (B, 3, H, W), and their losses (B,), without gradients.

        Args:
            fixed: cutouts to use instead of drawn ones.
        """
        config, run, index = self.run.config, self.run, self.done
        self._enter(index)
        size = tuple(self.latents().shape[-2:])
        corners = run.draw_windows(size)
        cutouts = run.draw(run.pixels(run.shown(size))) if fixed is None else fixed
        factor = lr_factor(config.lr_schedule, index, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        seen: list[tuple[Tensor, Tensor]] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            images, row = self._backward(index, cutouts, corners)
            seen.append((images, row))
            return row[0].sum()

        self.optimizer.step(closure)
        self.latents.clamp_()
        self.ema.update(self.latents())
        images, row = seen[0]
        self.rows.append(row)
        self.done += 1
        return images, row[0]

    def _backward(self, index: int, cutouts: Views, corners) -> tuple[Tensor, Tensor]:
        """Leave the gradient of the loss in the parameters; return pictures and (loss, terms...) as (1 + terms, B)."""
        config, run = self.run.config, self.run
        z = self.latents()
        images = run.paint(z, corners)
        scale = HALF_SCALE if run.dtype == torch.float16 else 1.0
        step = Step(index, z, images, cutouts, index / max(config.steps, 1))
        values, shown = {}, images
        if config.cutout_passes > 1:  # the guides' gradient to the pictures, some cutouts at a time
            shown = images.detach().requires_grad_()
            values["guide"] = self._guide_in_passes(shown, step, scale)
        values |= {name: term(step) for name, term in self.terms.items() if name not in values}
        values = {name: values[name] for name in self.terms}  # each (B,)
        # the sum over pictures, so that one picture's step does not depend on the number of the others
        rest = [v.sum() * scale for v in values.values() if v.requires_grad]
        if shown is not images:
            torch.autograd.backward([images, *rest], [shown.grad, *[torch.ones_like(r) for r in rest]])
        else:
            (torch.stack(list(values.values())).sum(dim=0).sum() * scale).backward()
        if scale != 1:
            for p in self.latents.parameters():
                p.grad /= scale
        values = [v.detach() for v in values.values()]
        return images.detach(), torch.stack([torch.stack(values).sum(dim=0), *values])

    def _guide_in_passes(self, images: Tensor, step: Step, scale: float) -> Tensor:
        """Add the guide term's gradient to `images.grad`, a part of the cutouts at a time; return its value (B,)."""
        views = step.cutouts if isinstance(step.cutouts, dict) else {None: step.cutouts}
        count = next(iter(views.values())).matrix.shape[1]
        total, edges = 0.0, torch.linspace(0, count, min(self.run.config.cutout_passes, count) + 1).long().tolist()
        for first, end in zip(edges, edges[1:], strict=False):
            part = {region: p.cutouts(first, end) for region, p in views.items()}
            value = self.run.guides.losses(images, part, progress=step.progress).sum(dim=1) * (end - first) / count
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
        bad = (~table[:, 0].isfinite()).any(dim=1).nonzero()
        if len(bad):
            raise RunFailed(f"the loss is not a number from step {int(bad[0])} on; try a smaller learning_rate, or "
                            "precision='float32'")
        means = table.mean(dim=2).tolist()
        return table[:, 0], [{"step": i, **dict(zip(["loss", *self.terms], row, strict=True))}
                             for i, row in enumerate(means)]

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on exactly from here."""
        return {"done": self.done, "stage": self.stage, "z_start": self.z_start,
                "latents": [p.detach() for p in self.latents.parameters()], "optimizer": self.optimizer.state_dict(),
                "ema": {"sum": self.ema.sum, "weight": self.ema.weight}, "rows": self.rows,
                "streams": [g.get_state() for g in self._streams()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.done, self.stage, self.rows = state["done"], state["stage"], list(state["rows"])
        if self.run.config.subspace_steps and self.done > self.run.config.subspace_steps:
            self._begin(self.z_start)  # it had left the subspace
        elif self.stage:
            self._begin(resize(self.z_start, self.run.stages[self.stage].size))
        with torch.no_grad():
            for own, saved in zip(self.latents.parameters(), state["latents"], strict=True):
                own.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.sum, self.ema.weight = state["ema"]["sum"], state["ema"]["weight"]
        if self.ema.sum is not None:
            self.ema.sum = self.ema.sum.to(self.run.device)
        for g, saved in zip(self._streams(), state["streams"], strict=True):
            g.set_state(saved)

    def _streams(self) -> list[torch.Generator]:
        drawn = [g for streams in self.run.streams.values() for g in streams]
        return [*drawn, *self.run.tile_streams, *self.tether_streams]
