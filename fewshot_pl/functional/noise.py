"""Random numbers that depend on a seed alone."""

from functools import lru_cache
from math import prod
from random import Random

import torch
from torch import Tensor


def normal_noise(seed: str, *shape: int) -> Tensor:
    """Standard normal numbers of a shape, which depend on the seed alone; not to be called under vmap."""
    generator = torch.Generator().manual_seed(Random(seed).getrandbits(63))
    return torch.randn(*shape, generator=generator)


def fixed_normal_noise(seed: str, *shape: int) -> Tensor:
    """As ``normal_noise``, but other numbers, also under vmap, where torch's would differ from task to task."""
    return torch.tensor(_fixed_numbers(seed, prod(shape))).view(shape)


@lru_cache
def _fixed_numbers(seed: str, count: int) -> list[float]:
    random = Random(seed)
    return [random.gauss(0, 1) for _ in range(count)]
