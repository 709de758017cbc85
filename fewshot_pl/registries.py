"""What the packages of algorithms and of benchmarks, which are the registries, offer by name."""

import inspect
from types import ModuleType


def concrete_classes(registry: ModuleType) -> list[str]:
    """The names of the classes in ``registry.__all__`` that can be made: those that are no mere bases."""
    return [name for name in registry.__all__ if not inspect.isabstract(getattr(registry, name))]
