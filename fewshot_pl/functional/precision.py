"""Numbers that half precision is too coarse for."""

from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 where they are in half precision, and else as they are."""
    return values.float() if values.dtype.itemsize < 4 else values
