"""Random numbers that are a function of a seed alone."""

from random import Random

import torch
from torch import Tensor


def normal_noise(seed: str, *shape: int) -> Tensor:
    """Standard normal numbers of a shape, a function of the seed alone; not to be called under vmap."""
    generator = torch.Generator().manual_seed(Random(seed).getrandbits(63))
    return torch.randn(*shape, generator=generator)
