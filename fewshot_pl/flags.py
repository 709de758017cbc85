"""The argument parser of the commands: Lightning's, with mistakes explained in one sentence."""

import difflib
import inspect
import math
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from jsonargparse import set_parsing_settings
from jsonargparse._typehints import ActionTypeHint
from pytorch_lightning.cli import LightningArgumentParser

from fewshot_pl import algorithms, benchmarks
from fewshot_pl.errors import InputError
from fewshot_pl.printable import printable
from fewshot_pl.registries import concrete_classes

# A config file instantiates only what a flag is for. These are the defaults of later versions of jsonargparse.
_SAFE: dict[str, Any] = {"instantiate_subclass_spec_in_any": False, "import_path_denylist": []}
_KNOWN = inspect.signature(set_parsing_settings).parameters
set_parsing_settings(**{name: value for name, value in _SAFE.items() if name in _KNOWN})

_MOST_VALUES = 10_000  # in a config file
_REGISTRIES = {"model": algorithms, "data": benchmarks}


class FewShotArgumentParser(LightningArgumentParser):
    """A parser that accepts no abbreviated flags and suggests the nearest flag for an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the mistake in one sentence and exit with 2."""
        owner = _owner(next(iter(self.groups or {}), ""))
        known = [re.sub("^--", owner.prefix, option) for action in self._actions for option in action.option_strings]
        print(f"error: {printable(_explained(message, known, owner))}", file=sys.stderr)
        sys.exit(2)


def make_folder(folder: Path, flag: str) -> None:
    """Make the folder that a flag names, if needed; raise InputError if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder} ({error.strerror}): give --{flag} another place") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write into {folder}: give --{flag} another place")


class _Owner(NamedTuple):
    """The class whose arguments are parsed, such as EarlyStopping; empty for the flags of a command."""

    flag: str  # that names it, without dashes: trainer.callbacks
    name: str

    @property
    def prefix(self) -> str:
        return f"--{self.flag}." if self.flag else "--"

    @property
    def help(self) -> str:
        return f"--{self.flag}.help {self.name}" if self.flag else "--help"


def _owner(name: str) -> _Owner:
    """The class whose parser reports a mistake now.

    jsonargparse gives a class a parser of its own, which does not know the flag that names the class: only the actions
    that are being called do.

    Args:
        name: what the class would be called.
    """
    actions = [frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None)]  # the innermost first
    flags = dict.fromkeys(action.dest for action in reversed(actions) if isinstance(action, ActionTypeHint))
    return _Owner(".".join(flags), name) if flags else _Owner("", "")


def _explained(message: str, known_flags: Iterable[str], owner: _Owner) -> str:
    """jsonargparse's message about a mistake on the command line or in a config file, as one sentence with the cure."""
    if match := re.search(r"Option '([\w.]+)' is not accepted|[Uu]nrecognized arguments: --([\w.]+)", message):
        return _unknown_flag(match[1] or match[2], known_flags, owner)
    if match := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return _unknown_flag(f"{match[1]}.{match[2]}", known_flags, owner)
    flag = owner.prefix + (match[1] if (match := re.search(r'Parser key "([\w.]+)"', message)) else "")
    if match := re.search(r"NestedArg\(key='([\w.]+)'", message):
        if not re.search("dot import path|instantiatable class", message):
            return f"there is no flag {flag}.{match[1]}: did you mean {flag}?"
        return f"{flag}.{match[1]} is for a class, and none that has it is named: name one by {flag} before it"
    is_number = re.search(r"Expected a <class '(?:int|float)'>", message)
    match = re.search(r"Expected a dot import path string: (\w+)|Expected a path but (\S+) either", message)
    if match and not is_number:
        return _unknown_class(flag, match[1] or match[2])
    if match := re.search(r"(?:Got value|Given value): (.*)", message):
        kinds = re.findall(r"Expected an? (?!path|dot)([^\n]*)", message)
        return f"{flag} takes {' or '.join(dict.fromkeys(map(_plain_type, kinds)))}, not {match[1]}"
    if match := re.search(r"the following arguments are required: (.*)", message):
        *others, last = (owner.prefix + name for name in match[1].split(", "))
        return f"{', '.join(others)}{' and ' * bool(others)}{last} must be given: see {owner.help}"
    return " ".join(message.split())


def given_flags(words: Sequence[str]) -> set[str]:
    """The flags on a command line, each like ``--data.num_ways`` even where it is spelled with ``.init_args``."""
    return {word.partition("=")[0].replace(".init_args.", ".") for word in words}


def chosen_class(key: str, args: Sequence[str], default: str) -> str:
    """The class that flags and config files name last for ``--model`` or ``--data``.

    It is given to the parser before all flags, so that the defaults are those of this class: jsonargparse keeps the
    values of a class that a later flag replaces, even its defaults.
    """
    chosen = default
    for word, following in zip(args, [*args, ""][1:], strict=True):
        name, _, value = word.partition("=")
        value = value or following
        if name in (f"--{key}", f"--{key}.class_path"):
            chosen = value
        elif name in ("--config", "-c"):
            chosen = _class_in_file(_at_home(value), key) or chosen
    return chosen


def _at_home(path: str) -> Path:
    """A path with its ``~`` expanded, which no shell does after ``--config=``; the parser reports an unknown user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _class_in_file(path: Path, key: str) -> str | None:
    section = _settings(path).get(key)
    return section.get("class_path") if isinstance(section, dict) else section and str(section)


def _settings(path: Path) -> dict[str, Any]:
    """The contents of a config file; empty where there is no such file, which the parser reports."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "problem", None) or getattr(error, "strerror", None) or str(error)
        line = f"line {mark.line + 1}: " if (mark := getattr(error, "problem_mark", None)) else ""
        raise InputError(f"{path} is no configuration ({line}{reason}): give --config a YAML file of flags") from error
    if not isinstance(settings or {}, dict):
        raise InputError(f"{path} holds no settings by name: give --config a YAML file of flags")
    if _num_values(settings, {}) > _MOST_VALUES:
        raise InputError(f"{path} repeats itself by aliases without measure: write out what each flag is")
    return settings or {}


def _num_values(settings: Any, known: dict[int, float]) -> float:
    """The number of values in parsed YAML, with each alias counted anew; infinite if it contains itself.

    Args:
        settings: the parsed YAML.
        known: the numbers of the lists and dictionaries counted so far, by ``id``.
    """
    if not isinstance(settings, dict | list):
        return 1
    if id(settings) not in known:
        known[id(settings)] = math.inf  # for what contains itself
        parts = settings.values() if isinstance(settings, dict) else settings
        known[id(settings)] = sum(_num_values(part, known) for part in parts)
    return known[id(settings)]


def class_name(given: Any) -> str:
    """The name of the class that a parsed flag names, without its module."""
    return str(given.class_path.split(".")[-1])


def as_list(given: Any) -> list[Any]:
    """The values of a flag that takes none, one or several, as a list."""
    return given if isinstance(given, list) else [] if given is None else [given]


def init_parameters(owner: type) -> list[str]:
    """The names of the arguments of a class, including those that it passes on to its bases as ``**kwargs``."""
    names: dict[str, None] = {}
    for init in [vars(base)["__init__"] for base in inspect.getmro(owner) if "__init__" in vars(base)]:
        parameters = inspect.signature(init).parameters.values()
        names |= {
            p.name: None for p in parameters if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _unknown_class(flag: str, name: str) -> str:
    key = flag.lstrip("-")
    names = concrete_classes(_REGISTRIES[key]) if key in _REGISTRIES else []
    if name in names:
        full = f"{_REGISTRIES[key].__name__}.{name}"
        return f"{flag} {name} may be several classes, as one of your own has this name: pass {flag} {full}"
    choices = f" (there are {', '.join(names)})" if names else ": --help lists what it can be"
    return f"{flag} cannot be {name}{_nearest(name, dict(zip(names, names, strict=True)))}{choices}"


def _unknown_flag(name: str, known_flags: Iterable[str], owner: _Owner) -> str:
    flag = owner.prefix + name
    classes = _class_flags()
    if flag in classes:
        return f"{flag} is not a flag of the chosen class: it belongs to {', '.join(classes[flag])}"
    flags = [*known_flags, *classes]
    group, _, end = flag.rpartition(".")
    beside = [one for one in flags if not group or one.rpartition(".")[0] == group]
    if beside:
        nearest = _nearest(end.lstrip("-"), {one.rpartition(".")[2].lstrip("-"): one for one in beside})
    else:
        nearest = _nearest(flag, {one: one for one in flags})
    if owner.flag and not nearest:
        return f"{flag} is no flag of {owner.name}: see {owner.help}, or name another class by --{owner.flag} before it"
    return f"there is no flag {flag}{nearest or ': see --help'}"


def _class_flags() -> dict[str, list[str]]:
    """Every flag of an algorithm or benchmark, with the classes that have it."""
    flags: dict[str, list[str]] = {}
    for key in _REGISTRIES:
        for name in concrete_classes(_REGISTRIES[key]):
            for parameter in init_parameters(getattr(_REGISTRIES[key], name)):
                flags.setdefault(f"--{key}.{parameter}", []).append(name)
    return flags


def _plain_type(kind: str) -> str:
    kind = kind.split(". Got value")[0]
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    kind = re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", kind)
    return {"NoneType": "null", "int": "a whole number", "float": "a number"}.get(kind, kind)


def _nearest(word: str, known: Mapping[str, str]) -> str:
    """A question after what is nearest to a word, if anything is.

    Args:
        word: the word.
        known: what each known word stands for.
    """
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f": did you mean {known[found[0]]}?" if found else ""
