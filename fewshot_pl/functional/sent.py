"""From main memory to a device."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of main memory on a device, without waiting for what a GPU has yet to compute."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
