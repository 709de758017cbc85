"""What the packages of algorithms and of benchmarks, which are the registries, offer by name; and names of others."""

import inspect
import pkgutil
from types import ModuleType


def concrete_classes(registry: ModuleType) -> list[str]:
    """The names of the classes in ``registry.__all__`` that can be made: those that are no mere bases."""
    return [name for name in registry.__all__ if not inspect.isabstract(getattr(registry, name))]


def stored_name(owner: type) -> str:
    """The name by which a checkpoint knows a class: one of a user's with its module, as it may be called as ours."""
    is_ours = owner.__module__.partition(".")[0] == __name__.partition(".")[0]
    return owner.__name__ if is_ours else f"{owner.__module__}.{owner.__qualname__}"


def named_class(registry: ModuleType, name: str) -> type | None:
    """The class that a flag names, of the registry or by its module, which is imported; None where there is none."""
    if name in registry.__all__:
        ours: type = getattr(registry, name)
        return ours
    try:
        found = pkgutil.resolve_name(name) if "." in name else None
    except Exception:  # whatever a module of a user's leads to: the parser imports it again, and says it
        return None
    return found if isinstance(found, type) else None
