"""The argument parser of the commands: Lightning's, with mistakes explained in one sentence."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from fewshot_pl import algorithms, benchmarks

_REGISTRIES = {"model": algorithms, "data": benchmarks}


class FewShotArgumentParser(LightningArgumentParser):
    """A parser that takes no abbreviated flags and names the nearest right flag for a wrong one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the mistake in one sentence and exit with 2."""
        known = [option for action in self._actions for option in action.option_strings]
        print(f"error: {explained(message, known)}", file=sys.stderr)
        sys.exit(2)


def explained(message: str, known_flags: Iterable[str] = ()) -> str:
    """jsonargparse's account of a mistake on the command line or in a config file, as one sentence with its cure."""
    key = match.group(1) if (match := re.search(r'Parser key "([\w.]+)"', message)) else ""
    if match := re.search(r"class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", message):
        owner = match.group(1).split(".")[-1]
        flags = [f"--{key}.{name}" for name in init_parameters(_registered(key, owner))]
        return f"{owner} has no flag --{key}.{match.group(2)}{_nearest(f'--{key}.{match.group(2)}', flags)}"
    if match := re.search(r"(?:Unrecognized arguments|[Oo]ption) ?:? '?(-*[\w.]+)", message):
        flag = f"--{match.group(1).lstrip('-')}"
        return f"there is no flag {flag}{_nearest(flag, [*known_flags, *_class_flags()])}"
    if match := re.search(r"(?:Expected a dot import path string|Unable to import|Not a valid subclass).*?: *([\w.]+)", message):
        names = _REGISTRIES[key].__all__ if key in _REGISTRIES else []
        return f"--{key} cannot be {match.group(1)}{_nearest(match.group(1), names)}; there are {', '.join(names)}"
    if match := re.search(r'Parser key "([\w.]+)":\s+(Expected [^\n]*?)\.? Got value: ([^\n]*)', message):
        name = match.group(1) if match.group(1).startswith(key) else f"{key}.{match.group(1)}"
        return f"--{name}: {match.group(2)}, not {match.group(3)}"
    return " ".join(message.split())


def init_parameters(owner: type) -> list[str]:
    """The names that ``owner`` takes when it is made, those that it hands on to its bases among them."""
    names: dict[str, None] = {}
    for base in inspect.getmro(owner):
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                names[name] = None
        if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base.__init__).parameters.values()):
            break
    return list(names)


def _class_flags() -> list[str]:
    owners = [(key, getattr(registry, name)) for key, registry in _REGISTRIES.items() for name in registry.__all__]
    return sorted({f"--{key}.{name}" for key, owner in owners for name in init_parameters(owner)})


def _registered(key: str, name: str) -> type:
    owner: type = getattr(_REGISTRIES[key], name)
    return owner


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean {found[0]}?" if found else ""
