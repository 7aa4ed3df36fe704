"""What every training of one network shares: optimisers, clipped gradients, an average of the weights, Fabric."""

from typing import Any

import torch
from torch import Tensor, nn

from .averaging import EMA
from .muon import KernelMuon
from .schedule import set_lr
from .state import draw_apart
from ..errors import BadParameter
from ..runtime import autocast

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
MAX_NORM = 1.0  # of the gradients of one optimiser's weights together
BLOCKS = "blocks"  # what a network calls its stack of equal blocks


class NetworkTraining:
    """A network in training: AdamW, each optimiser's gradients clipped to length 1, and an average of the weights.

    A kind of training derives from it and defines `loss(batch)`.

    Args:
        network: moved in place.
        fabric: from `make_fabric`: precision, and the mean over processes.
        dtype: of autocast inside a fabric of float32. A fabric of lower precision autocasts by itself, and rounds what
            the network is given (pictures, times, tokens) as well.
        learning_rate: of the first step. ema_decay: of the average.
        fused: AdamW in one kernel; None leaves it to torch.
        muon: above 0, the matrices and kernels of the network's blocks are trained by Muon (Jordan et al. 2024:
            momentum whose singular values are brought to 1), with so many times the learning rate; the rest stays with
            AdamW. Not with float16, whose scaled gradients it would mix.
        compile: the network by `torch.compile`, or by a backend of it by name. The first step then takes a minute or
            more. For GPUs: on a CPU later steps were no faster (a text transformer of 1.4 M parameters, bfloat16).

    Attributes:
        ema: the averaged network, which is drawn with. optimizer: AdamW.
        gradient_norm: of AdamW's weights together in the last step, before it was clipped; 0 before the first.

    Raises:
        BadParameter: `muon` for a network without matrices in blocks, or in float16.
    """

    def __init__(self, network: nn.Module, fabric: Any, *, dtype: torch.dtype = torch.float32,
                 learning_rate: float = 1e-3, ema_decay: float = 0.999, fused: bool | None = None, muon: float = 0.0,
                 compile: bool | str = False):
        self.network = network
        self.fabric = fabric
        self.dtype = dtype
        self.gradient_norm = torch.zeros(())
        self.ema = EMA(network, ema_decay)
        self._matrices = matrices = block_matrices(network) if muon else []
        taken = {id(matrix) for matrix in matrices}
        others = [p for p in network.parameters() if id(p) not in taken]
        self.optimizer = torch.optim.AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY,
                                           fused=fused)
        # the state of a training belongs to the bare optimisers: the wrapped ones are how this process moves them
        self._optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": self.optimizer}
        if matrices:
            self._optimizers["muon"] = _muon(matrices, learning_rate, muon)
        if compile:
            backend = "inductor" if compile is True else compile
            network.compile(backend=backend)  # in place: names of weights stay; the average above is not compiled
        self._forward, *self._wrapped_optimizers = fabric.setup(network, *self._optimizers.values())
        self._scaler = getattr(fabric._precision, "scaler", None)  # of float16's loss
        if matrices and self._scaler is not None:
            raise BadParameter("muon would mix gradients that float16 scales; take bfloat16, float32 or muon=0")
        draw_apart(fabric.global_rank)

    def parts(self) -> dict[str, Any]:
        """Return what `save_training` and `load_training` keep of it, by name."""
        parts = {"net": self.network, "ema": self.ema, **self._optimizers}
        return parts if self._scaler is None else parts | {"scaler": self._scaler}

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
            for optimizer in self._optimizers.values():
                set_lr(optimizer, learning_rate)
        loss = self.loss(batch)
        self.network.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        # an overflow in float16 is no error: the scaler leaves such a step out, and scales less from then on
        self.gradient_norm = self.fabric.clip_gradients(self._forward, self._wrapped_optimizers[0], max_norm=MAX_NORM,
                                                        error_if_nonfinite=self._scaler is None)
        if self._matrices:
            nn.utils.clip_grad_norm_(self._matrices, MAX_NORM, error_if_nonfinite=True)
        for wrapped in self._wrapped_optimizers:
            wrapped.step()
        self.ema.update(self.network)
        return loss.detach()


def block_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return matrices and kernels of a network's blocks: no embeddings, no first or last layer, which are not Muon's.

    Raises:
        BadParameter: there are none.
    """
    found = []
    for name, parameter in network.named_parameters():
        is_in_a_block = BLOCKS in name.split(".")
        if is_in_a_block and name.endswith("weight") and parameter.ndim >= 2:
            found.append(parameter)
    if not found:
        raise BadParameter(f"muon trains matrices inside {BLOCKS!r}, and {type(network).__name__} has none; take "
                           "muon=0")
    return found


def _muon(matrices: list[nn.Parameter], learning_rate: float, scale: float) -> torch.optim.Optimizer:
    """Return Muon for matrices, with steps as long as AdamW's at `scale` times the learning rate."""
    optimizer = KernelMuon(matrices, lr=scale * learning_rate, weight_decay=WEIGHT_DECAY)
    for group in optimizer.param_groups:
        group["lr_scale"] = scale
    return optimizer


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
