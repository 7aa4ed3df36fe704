"""What every training of one network shares: AdamW, clipped gradients, an average of the weights, precision, Fabric."""

from typing import Any

import torch
from torch import Tensor, nn

from .averaging import EMA
from .schedule import set_lr
from ..errors import BadParameter
from ..runtime import autocast

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
MAX_NORM = 1.0  # of all gradients together


class NetworkTraining:
    """A network in training: AdamW, gradients clipped to length 1, and an average of the weights.

    A kind of training derives from it and defines `loss(batch)`.

    Args:
        network: moved in place.
        fabric: from `make_fabric`: precision, and the mean over processes.
        dtype: of autocast inside a fabric of float32. A fabric of lower precision autocasts by itself, and rounds what
            the network is given (pictures, times, tokens) as well.
        learning_rate: of the first step. ema_decay: of the average.
        fused: AdamW in one kernel; None leaves it to torch.

    Attributes:
        ema: the averaged network, which is drawn with.
    """

    def __init__(self, network: nn.Module, fabric: Any, *, dtype: torch.dtype = torch.float32,
                 learning_rate: float = 1e-3, ema_decay: float = 0.999, fused: bool | None = None):
        self.network = network
        self.fabric = fabric
        self.dtype = dtype
        self.ema = EMA(network, ema_decay)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=BETAS,
                                           weight_decay=WEIGHT_DECAY, fused=fused)
        # the state of a training belongs to the bare optimiser: the wrapped one is how this process moves it
        self._forward, self._wrapped_optimizer = fabric.setup(network, self.optimizer)

    def parts(self) -> dict[str, Any]:
        """Return what `save_training` and `load_training` keep of it, by name."""
        return {"net": self.network, "ema": self.ema, "optimizer": self.optimizer}

    def forward(self, *inputs: Tensor, **conditions: Tensor) -> Any:
        """Return what the network, as Fabric wraps it, makes of inputs in the precision of the training."""
        with autocast(inputs[0].device, self.dtype):
            return self._forward(*inputs, **conditions)

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch, with gradient."""
        raise NotImplementedError

    def step(self, batch: Any, learning_rate: float | None = None) -> Tensor:
        """Make one step, and return the loss before it, of this process's part of the batch, without gradient.

        Args:
            learning_rate: from this step on; None leaves it as it is.
        """
        if learning_rate is not None:
            set_lr(self.optimizer, learning_rate)
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self._forward, self._wrapped_optimizer, max_norm=MAX_NORM)
        self._wrapped_optimizer.step()
        self.ema.update(self.network)
        return loss.detach()


def draw_captions(captions: Tensor, count: int, generator: torch.Generator, drop_text: float) -> tuple[Tensor, Tensor]:
    """Draw one caption of each picture, and whose text is dropped, for classifier-free guidance.

    Args:
        captions: (B, n), where the captions of each of `count` pictures stand. generator: on the CPU.
        drop_text: share of pictures whose text is dropped.

    Shapes:
        result: (B,) of the captions that were drawn, (B,) bool

    Raises:
        BadParameter: not a row of captions for each picture.
    """
    if captions.ndim != 2 or len(captions) != count:
        raise BadParameter(f"captions must be (B, n) with a row for each of the {count} pictures, got "
                           f"{tuple(captions.shape)}")
    picked = torch.randint(captions.shape[1], (count,), generator=generator)
    caption = captions[torch.arange(count), picked]
    drop = torch.rand(count, generator=generator) < drop_text
    return caption, drop
