"""The user's own classes that flags of evaluate.py, predict.py and export.py name, as those of train.py do."""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from fewshot_pl import algorithms, benchmarks
from fewshot_pl.errors import InputError
from fewshot_pl.flags import FewShotArgumentParser
from fewshot_pl.registries import resolved_class

OWN_ALGORITHM = "class of your own that a checkpoint holds, as mine.MyProto: a checkpoint imports no code"
_OWN_BENCHMARK = "class of your own that the checkpoint was trained on, as mine.MyImages"
_CURE = "give a class with its module, as mine.MyClass, in a folder that PYTHONPATH names"


def add_own_classes(parser: FewShotArgumentParser) -> None:
    """Add the flags ``--model`` and ``--data``, for the classes in a checkpoint that are the user's own."""
    parser.add_argument("--model", type=str | None, help=OWN_ALGORITHM)
    parser.add_argument("--data", type=str | None, help=_OWN_BENCHMARK)


def import_own_classes(config: Any) -> None:
    """Import the classes that these flags name; raises as ``import_classes``."""
    for flag, registry in (("model", algorithms), ("data", benchmarks)):
        if config[flag]:
            import_classes(registry, [config[flag]], flag)


def import_classes(registry: ModuleType, names: Iterable[str], flag: str) -> None:
    """Import the classes that a flag names, so that checkpoints which hold them can be opened.

    Args:
        registry: the package of classes that need no import.
        names: of classes, those of the user with their modules.
        flag: its name.

    Raises:
        InputError: there is no such class.
    """
    for name in names:
        if name not in registry.__all__:
            _import(name, flag)


def _import(name: str, flag: str) -> None:
    try:
        found = resolved_class(name)
    except Exception as error:  # a user's module may raise anything
        raise InputError(f"--{flag} {name} cannot be imported ({error}): {_CURE}") from error
    if found is None:
        raise InputError(f"--{flag} {name} names no class: {_CURE}")
