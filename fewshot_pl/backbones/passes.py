"""Contexts that tell layers what they need to know about a forward pass, for as long as it lasts.

Each sets one attribute on the parts of a network that have it; these parts say what they do with it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn


def support_rows(module: nn.Module, num_support: int) -> AbstractContextManager[None]:
    """A context in which a batch starts with ``num_support`` support images (matters for norm ``support``)."""
    return _all_with_attribute(module, "num_support", num_support)


def joint_pass(
    module: nn.Module, passed: Callable[[Tensor], Tensor], support: Tensor, queries: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs of ``passed`` for support and queries, which pass through ``module`` in one batch."""
    with support_rows(module, len(support)):
        outputs = passed(torch.cat([support, queries]))
    return outputs[: len(support)], outputs[len(support) :]


def vectorised_pass(module: nn.Module) -> AbstractContextManager[None]:
    """A context in which forward passes run under vmap."""
    return _all_with_attribute(module, "vectorised", True)


def second_order_pass(module: nn.Module) -> AbstractContextManager[None]:
    """A context in which autograd will differentiate the gradients of forward passes, without torch.func."""
    return _all_with_attribute(module, "twice_differentiated", True)


def observing(module: nn.Module) -> AbstractContextManager[None]:
    """A context for passes over a task's support, whose statistics are observed (matters for norm ``episode``)."""
    return _all_with_attribute(module, "observing", True)


def same_images(module: nn.Module) -> AbstractContextManager[None]:
    """A context in which all passes take the same images, outside torch.func; layers keep what these alone decide."""
    parts = _parts(module, "kept")
    return with_attribute(parts, "kept", [[] for _ in parts])


def same_pass(module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A maker of contexts that restore whether passes run under vmap now, which a backward pass does not know."""
    parts = _parts(module, "vectorised")
    vectorised = [part.vectorised for part in parts]
    return lambda: with_attribute(parts, "vectorised", vectorised)


@contextmanager
def with_attribute(parts: Sequence[nn.Module], name: str, values: Sequence[object]) -> Iterator[None]:
    """A context in which the attribute ``name`` of each part of a network has the value given for it."""
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
