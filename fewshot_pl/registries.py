"""Classes by name: those of the registries, which are the packages of algorithms and of benchmarks, and others."""

import inspect
import pkgutil
from collections.abc import Iterator
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
        return resolved_class(name)
    except Exception:  # a user's module may raise anything; the parser imports it again and reports it
        return None


def resolved_class(name: str) -> type | None:
    """The class that a name with its module stands for, which is imported and may raise anything; None for no class."""
    found = pkgutil.resolve_name(name) if "." in name else None
    return found if isinstance(found, type) else None


def imported_class(base: type, name: Any) -> type | None:
    """The class with this stored name, if it is a subclass of ``base`` and imported already; else None.

    A checkpoint may name anything, so nothing is imported for it. A notebook may define a class twice: the last counts.
    """
    found = [owner for owner in _subclasses(base) if stored_name(owner) == name]
    return found[-1] if found else None


def _subclasses(base: type) -> Iterator[type]:
    owner: type
    for owner in base.__subclasses__():
        yield owner
        yield from _subclasses(owner)
