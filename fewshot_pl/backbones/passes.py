"""What layers have to know of a forward pass, told for as long as it lasts.

A part of a network that has to know has an attribute of that name, where it says what it does with it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import nn


def support_rows(module: nn.Module, num_support: int) -> AbstractContextManager[None]:
    """Within, the first ``num_support`` rows of a batch are its support images (matters to norm ``support``)."""
    return _all_with_attribute(module, "num_support", num_support)


def vectorised_pass(module: nn.Module) -> AbstractContextManager[None]:
    """Within, forward passes run under vmap."""
    return _all_with_attribute(module, "vectorised", True)


def second_order_pass(module: nn.Module) -> AbstractContextManager[None]:
    """Within, autograd will differentiate the gradients of forward passes, without torch.func."""
    return _all_with_attribute(module, "twice_differentiated", True)


def observing(module: nn.Module) -> AbstractContextManager[None]:
    """Within, passes are those of a task's support, whose statistics are to be taken (matters to norm ``episode``)."""
    return _all_with_attribute(module, "observing", True)


def same_pass(module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """What to enter to be, later on, under vmap if we are now: a backward pass does not know what the forward was."""
    parts = _parts(module, "vectorised")
    vectorised = [part.vectorised for part in parts]
    return lambda: with_attribute(parts, "vectorised", vectorised)


@contextmanager
def with_attribute(parts: Sequence[nn.Module], name: str, values: Sequence[object]) -> Iterator[None]:
    """Within, parts of a network have an attribute of these values, one each."""
    before = [getattr(part, name) for part in parts]
    for part, value in zip(parts, values, strict=True):
        setattr(part, name, value)
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            setattr(part, name, value)


def _all_with_attribute(module: nn.Module, name: str, value: object) -> AbstractContextManager[None]:
    parts = _parts(module, name)
    return with_attribute(parts, name, [value] * len(parts))


def _parts(module: nn.Module, name: str) -> list[nn.Module]:
    return [part for part in module.modules() if name in vars(part)]
