"""Copies of a network from several moments of its training, for what is measured over time."""

from typing import Any

from torch import nn

from .loop import TrainingLoop


class Copies:
    """The weights of a network at shares of its training: one more part of the training's state.

    Args:
        batch_size: pictures of a step.

    Attributes:
        SHARES: of the training, at each of which a copy is made.
        rows: of each copy the `share` of the training, as text, and the `minutes` at which its last step began, the
            `pictures` learned from, and the `weights`, on the CPU.

    Example:
        for step in loop:
            training.step(batch, rate)
            copies.follow(loop, training.ema.model)
    """

    SHARES = (1 / 4, 1 / 2, 1)

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.rows: list[dict[str, Any]] = []

    def follow(self, loop: TrainingLoop, network: nn.Module) -> None:
        """Keep the weights when the loop passes a share of its steps; call it once a step, as `loop.passes`."""
        if not loop.passes([share * loop.steps for share in self.SHARES]):
            return
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        self.rows.append({"share": f"{loop.position / loop.steps:.0%}", "minutes": loop.seconds / 60,
                          "pictures": (loop.done + 1) * self.batch_size, "weights": weights})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
