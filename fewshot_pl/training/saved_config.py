"""The configuration that a run saves: all that was parsed, as text that can be parsed again."""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from enum import Enum
from os import PathLike
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_warn

_KINDS = str, bool, int, float, Enum, PathLike, timedelta, Namespace, dict, list, tuple
_NOT_WRITTEN = "Unable to serialize instance "  # jsonargparse's text where a function may stand, before the value


def configuration_text(dump: Callable[[Namespace], str], config: Namespace) -> str:
    """The YAML of a configuration; what YAML cannot express is left out, with a warning.

    Args:
        dump: the parser's ``dump``.
        config: the parsed flags.
    """
    text = dump(_in_words(config, ""))
    if _NOT_WRITTEN not in text:
        return text
    written: str = yaml.safe_dump(_in_words(yaml.safe_load(text), ""), sort_keys=False)
    return written


def _in_words(value: Any, name: str) -> Any:
    """The value with enumerations as their values and devices as their names, without what cannot be written."""
    if isinstance(value, Namespace):
        return type(value)(**dict(_items(vars(value).items(), name)))
    if isinstance(value, dict):
        return dict(_items(value.items(), name))
    if isinstance(value, list | tuple):
        return type(value)(part for _, part in _items(enumerate(value), name))
    if isinstance(value, Enum) and isinstance(value, str):
        return value.value
    if isinstance(value, str):
        return value.removeprefix(_NOT_WRITTEN)  # a name, like l1_unstructured, or an object's "<...>"
    return str(value) if isinstance(value, torch.device) else value


def _items(items: Iterable[tuple[Any, Any]], name: str) -> Iterator[tuple[Any, Any]]:
    for key, value in items:
        whole = f"{name}.{key}".lstrip(".")
        part = _in_words(value, whole)
        is_object = isinstance(value, str) and value.startswith(f"{_NOT_WRITTEN}<")
        if _is_written(part) and not is_object:
            yield key, part
        else:
            rank_zero_warn(f"{whole} cannot be written: config.yaml leaves it out, so its default will apply there")


def _is_written(value: Any) -> bool:
    return value is None or isinstance(value, _KINDS) or callable(value)
