"""Refusing random numbers where they would be other numbers the next time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fewshot_pl.errors import InputError


@contextmanager
def refused_draws(device: torch.device, error: InputError) -> Iterator[None]:
    """A context that raises the error at its end if torch's random state moved within, such as by F.dropout.

    Args:
        device: whose random state.
        error: what to raise.
    """
    if torch.compiler.is_compiling():  # which cannot ask for the random state
        yield
        return
    before = _random_state(device)
    yield
    if not torch.equal(before, _random_state(device)):
        raise error


def _random_state(device: torch.device) -> Tensor:
    state: Tensor = (torch.get_device_module(device) if device.type != "cpu" else torch).get_rng_state()
    return state
