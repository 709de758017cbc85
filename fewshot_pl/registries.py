"""Classes by name: those of the registries, which are the packages of algorithms and of benchmarks, and others."""

import inspect
import pkgutil
from types import ModuleType
from typing import Any


def concrete_classes(registry: ModuleType) -> list[str]:
    """The names of the classes in ``registry.__all__`` that can be instantiated, which abstract bases cannot."""
    return [name for name in registry.__all__ if not inspect.isabstract(getattr(registry, name))]


def stored_name(owner: type) -> str:
    """The name of a class in checkpoints; a user's class includes its module, as its name may equal one of ours."""
    return owner.__name__ if is_ours(owner) else f"{owner.__module__}.{owner.__qualname__}"


def is_ours(defined: Any) -> bool:
    """Whether a class or function is defined in this package."""
    return str(defined.__module__).partition(".")[0] == __name__.partition(".")[0]


def named_class(registry: ModuleType, name: str) -> type | None:
    """The class that a flag names, in the registry or with its module, which is imported; None if there is none."""
    if name in registry.__all__:
        ours: type = getattr(registry, name)
        return ours
    try:
        found = pkgutil.resolve_name(name) if "." in name else None
    except Exception:  # a user's module may raise anything; the parser imports it again and reports it
        return None
    return found if isinstance(found, type) else None
