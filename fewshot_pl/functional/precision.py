"""Numbers that half precision is too coarse for."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 where they are in half precision, and else as they are."""
    return values.float() if values.dtype.itemsize < 4 else values


def without_autocast(values: Tensor) -> AbstractContextManager[None]:
    """Within, autocast computes nothing in half precision on the device of ``values``."""
    return torch.autocast(values.device.type, enabled=False)


def loss_is_scaled(device: torch.device) -> bool:
    """Whether autocast is in float16, whose 5 bits of exponent need a loss scaled before its gradient is taken."""
    kind = device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return enabled and torch.get_autocast_dtype(kind) == torch.float16
