"""Computations for which half precision is too coarse."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values, in float32 if they are in half precision and otherwise unchanged."""
    return values.float() if values.dtype.itemsize < 4 else values


def without_autocast(values: Tensor) -> AbstractContextManager[None]:
    """A context in which autocast computes nothing in half precision on the device of ``values``."""
    return torch.autocast(values.device.type, enabled=False)


def loss_is_scaled(device: torch.device) -> bool:
    """Whether autocast uses float16, whose 5-bit exponent needs the loss scaled before its gradient is taken."""
    kind = device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return enabled and torch.get_autocast_dtype(kind) == torch.float16
