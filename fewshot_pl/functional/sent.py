"""Transfer from main memory to a device."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values, moved from main memory to a device without waiting for what a GPU has yet to compute."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
