"""Which implementation of a kernel runs: choice of backend, guarded Triton import, exact second derivatives."""

import contextvars
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import BadParameter, KernelUnavailable, check_name

try:  # Triton has no wheel for Windows and macOS: everything must work without it
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    triton = None
    tl = None
    HAS_TRITON = False

# Triton's interpreter runs kernels on CPU tensors, line by line: slow, but a debugger works. Whether it is used is
# decided once for a process, by the variable's value at this import.
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ("auto", "torch", "triton")
MIN_CAPABILITY = (8, 0)

# what "auto" means inside `use_backend`
_backend_of_auto: contextvars.ContextVar[str] = contextvars.ContextVar("t2ilib_kernel_backend", default="auto")


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Let every kernel that is called with `backend="auto"` inside the `with` block use this backend.

    Args:
        backend: "auto", "torch" or "triton".

    Raises:
        UnknownName: for any other name.
    """
    check_name("kernel backend", backend, BACKENDS)
    token = _backend_of_auto.set(backend)
    try:
        yield
    finally:
        _backend_of_auto.reset(token)


def choose(backend: str, *tensors: Tensor, name: str, kernel: str) -> str:
    """Return "torch" or "triton" for one call of a kernel.

    Args:
        backend: what the caller asked for; "auto" follows `use_backend`, then the device.
        *tensors: the inputs; Triton needs all of them on a CUDA device of capability 8.0 or newer, or its interpreter.
        name: the operation's public name, for the message.
        kernel: what Triton kernel the operation has: "none"; one that is "unproven", since no GPU has shown it to be
            faster, and runs only if it is asked for; or a "proven" one, which "auto" takes on a GPU.

    Raises:
        UnknownName: the backend's name is not known.
        KernelUnavailable: Triton was asked for by name and cannot run here.
    """
    check_name("kernel backend", backend, BACKENDS)
    if backend == "auto":
        backend = _backend_of_auto.get()
    if backend == "torch":
        return "torch"
    by_name = backend == "triton"
    if not by_name and (kernel != "proven" or INTERPRETED):
        return "torch"
    obstacle = _triton_obstacle(tensors, kernel)
    if obstacle is None:
        return "triton"
    if by_name:
        raise KernelUnavailable(f"{name}: backend 'triton' cannot run, because {obstacle}; use 'auto' or 'torch'")
    return "torch"


def _triton_obstacle(tensors: tuple[Tensor, ...], kernel: str) -> str | None:
    """Say why Triton cannot take these tensors, or None when it can."""
    if kernel == "none":
        return "this operation has no Triton kernel"
    if not HAS_TRITON:
        return "the package triton is not installed"
    if INTERPRETED:
        return None
    for tensor in tensors:
        if tensor.device.type != "cuda":
            return (f"an input is on {tensor.device}, and Triton needs a CUDA device, or TRITON_INTERPRET=1 set before "
                    "t2ilib is imported")
        capability = torch.cuda.get_device_capability(tensor.device)
        if capability < MIN_CAPABILITY:
            return f"the GPU has capability {capability}, and at least {MIN_CAPABILITY} is needed"
    return None


def second_order_via(reference: Callable[..., Tensor]) -> Callable:
    """Decorate the `backward` of an `autograd.Function`, so that derivatives of derivatives are exact.

    A hand-written backward builds no graph: a gradient penalty through it would be silently wrong. Inside `backward`,
    grad mode is on exactly when a second derivative is wanted; then the gradients are taken from `reference` with
    `create_graph=True`, otherwise the decorated function runs unchanged.

    The Function's context must hold `ctx.inputs_saved` (the number of leading saved tensors that are, in order, the
    leading arguments of both `forward` and `reference`) and `ctx.constants` (keyword arguments of `reference`).

    Args:
        reference: differentiable function that defines the operation.
    """

    def decorate(backward: Callable) -> Callable:
        @functools.wraps(backward)
        def guarded(ctx, *grad_outputs):
            if not torch.is_grad_enabled():
                return backward(ctx, *grad_outputs)
            return reference_gradients(reference, ctx, grad_outputs)

        return guarded

    return decorate


def reference_gradients(reference: Callable[..., Tensor], ctx, grad_outputs: tuple[Tensor, ...]) -> tuple:
    """Return the differentiable gradients of `reference` for the inputs that need one, None for the others.

    Args:
        reference: function that defines the operation.
        ctx: context of an `autograd.Function`, as described in `second_order_via`.
        grad_outputs: gradients of the operation's results.
    """
    inputs = ctx.saved_tensors[:ctx.inputs_saved]
    needed = [i for i in range(len(inputs)) if ctx.needs_input_grad[i]]
    output = reference(*inputs, **ctx.constants)
    found = torch.autograd.grad(output, [inputs[i] for i in needed], grad_outputs, create_graph=True,
                                allow_unused=True)
    gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    for i, gradient in zip(needed, found, strict=True):
        gradients[i] = gradient
    return tuple(gradients)


def require_floating(name: str, **tensors: Tensor | None) -> None:
    """Raise BadParameter unless all tensors are floating point and on one device; None is passed over."""
    devices = set()
    for key, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise BadParameter(f"{name}: {key} must be a floating-point tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise BadParameter(f"{name}: {key} must be a floating-point tensor, got {tensor.dtype}; convert it with "
                               ".float()")
        devices.add(str(tensor.device))
    if len(devices) > 1:
        raise BadParameter(f"{name}: all inputs must be on one device, got {sorted(devices)}; move them with .to()")
