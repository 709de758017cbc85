"""Pickled arrays, read with stand-ins for what a pickle names, so that nothing of the file's choice is ever called."""

import pickle
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.errors import InputError
from fewshot_pl.printable import printable

_NUMBERS = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}


def unpickled_arrays(file: BinaryIO, path: object) -> Any:
    """The content of a pickle of arrays of numbers, text, lists and dicts, as Python 2 or 3 wrote it.

    Args:
        file: the pickle.
        path: its name, for messages.

    Raises:
        InputError: it is cut short, or holds anything else.
    """
    try:
        return _ArrayUnpickler(file, path).load()
    except InputError:
        raise
    except Exception as error:  # pickle and numpy can raise anything on damaged bytes
        raise InputError(f"{path} is not a whole pickle of arrays: download or copy it again") from error


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: object) -> None:
        super().__init__(file, encoding="latin1")  # the encoding of arrays that Python 2 wrote
        self._path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        # numpy 2 renamed its core; a pickle of either is read by either.
        if (stand_in := _STAND_INS.get(name.replace("numpy._core.", "numpy.core."))) is None:
            raise InputError(f"{self._path} wants to run {printable(name)}: download it again")
        return stand_in


class _Kind:
    """The stand-in for numpy's dtype, whose own state could make numpy take bytes for objects."""

    def __init__(self, name: str, *_: bool) -> None:
        if name not in _NUMBERS:
            raise ValueError(f"{name} is no kind of number")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array that takes its state only as numbers."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, kind, is_fortran, content = state
        content = _bytes(content)
        numbers = _from_buffer(content, kind, shape)  # so that numpy checks the shape
        super().__setstate__((1, numbers.shape, numbers.dtype, bool(is_fortran), content))


def _reconstruct(*_: object) -> _Array:
    return _Array(0)


def _from_buffer(content: Any, kind: _Kind, shape: tuple[int, ...], order: Any = "C") -> NDArray[Any]:
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


def _scalar(kind: _Kind, content: Any) -> Any:
    return _from_buffer(_bytes(content), kind, ())[()]


def _bytes(content: Any, _: object = None) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else content


_STAND_INS: dict[str, Any] = {
    "numpy.ndarray": "numpy.ndarray",  # only ever an argument
    "numpy.dtype": _Kind,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _bytes,  # how Python 3 pickles bytes for Python 2
}
