"""Checks of the types and lower bounds of arguments, also of those that a program passes."""

import inspect
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fewshot_pl.errors import InputError

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {  # the values that a type accepts, and its name in messages
    bool: ((bool,), "bool"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, PathLike), "str"),
    NoneType: ((NoneType,), "null"),
}


def check_types(owner: type, given: Mapping[str, Any], flag: str) -> None:
    """Raise InputError, worded like the errors of flags, if an argument does not have its declared type.

    Args:
        owner: the class whose initialisers declare the types; collections are not checked.
        given: the arguments by name.
        flag: the prefix of their flags: ``--model`` or ``--data``.
    """
    for name, annotation in _annotations(owner):
        choices = list(_choices(annotation))
        if name in given and not any(_is_of(given[name], choice) for choice in choices):
            wanted = " or ".join(dict.fromkeys(map(_words, choices)))
            raise InputError(f"{flag}.{name} takes {wanted}, not {given[name]}")


def check_at_least(owner: str, least: int, **counts: int) -> None:
    """Raise InputError if one of these arguments is below ``least``.

    Args:
        owner: the prefix of an argument's name in the message, such as ``--data.``.
        least: the lower bound of each.
        counts: the arguments by name.
    """
    for name, count in counts.items():
        if count < least:
            raise InputError(f"{owner}{name} must be at least {least}, not {count}")


def _annotations(owner: type) -> Iterator[tuple[str, Any]]:
    """The arguments of a class and of its bases, each with its type, if any: the one that the last class declares."""
    seen: set[str] = set()
    for base in owner.__mro__:
        if init := vars(base).get("__init__"):
            for name, parameter in inspect.signature(init).parameters.items():
                if name not in seen and parameter.annotation is not inspect.Parameter.empty:
                    yield name, parameter.annotation
                seen.add(name)


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for choice in get_args(annotation):
            yield from _choices(choice)
    else:
        yield annotation


def _is_of(value: Any, choice: Any) -> bool:
    if get_origin(choice) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(choice))
    if choice not in _KINDS:
        return True
    return isinstance(value, _KINDS[choice][0]) and (choice is bool or not isinstance(value, bool))


def _words(choice: Any) -> str:
    if get_origin(choice) is Literal:
        return f"one of {', '.join(map(repr, get_args(choice)))}"
    return _KINDS[choice][1]
