"""PlainArguments: hyper-parameters from those arguments of a class and its subclasses that a checkpoint can hold."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from pytorch_lightning.core.mixins.hparams_mixin import HyperparametersMixin

_PLAIN = type(None), bool, int, float, str


class PlainArguments(HyperparametersMixin):
    """Saves the arguments that a checkpoint can hold as hyper-parameters, and leaves out the others.

    A checkpoint holds plain values, but no networks or arrays. NumPy numbers are saved as Python's, paths as strings.

    Attributes:
        given_arguments: all arguments by name, as they were given.
    """

    given_arguments: dict[str, Any]

    # Lightning passes all arguments through this method before it copies them: arrays may fill half the memory.
    def _set_hparams(self, hp: Any) -> None:
        given = self._to_hparams_dict(hp)
        self.given_arguments = {**getattr(self, "given_arguments", {}), **given}
        super()._set_hparams(dict(_plain_items(given)))


def plain(value: Any) -> Any:
    """The value as None, a boolean, a number or a string, or as a list, tuple or dict of these.

    Raises:
        TypeError: the value is or contains something else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, list | tuple):
        parts = map(plain, value)
        return list(parts) if isinstance(value, list) else tuple(parts)
    if isinstance(value, Mapping):
        return {plain(key): plain(part) for key, part in value.items()}
    if type(value) not in _PLAIN:
        raise TypeError(f"{type(value).__name__} is no plain value")
    return value


def _plain_items(arguments: MutableMapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        try:
            yield name, plain(value)
        except TypeError:
            continue
