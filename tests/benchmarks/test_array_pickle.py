"""Pickles of arrays: every version of Python and numpy is read, and nothing in them is run."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import io
import os
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest

from fewshot_pl.benchmarks.array_pickle import unpickled_arrays
from fewshot_pl.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
CONTENT = {
    "image_data": PIXELS,
    "turned": np.asfortranarray(PIXELS),
    "labels": np.arange(3, dtype=">i4"),
    "class_dict": {"n01532829": [0, np.int64(2)]},
    "share": np.float64(0.5),
}


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike, as Python 2 did."""

    def save_string(self, text):
        raw = text if isinstance(text, bytes) else text.encode("ascii")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}


def of_python_2():
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(CONTENT)
    return file.getvalue()


def of_another_numpy():
    written = pickle.dumps(CONTENT, protocol=2)
    old, new = b"cnumpy.core.", b"cnumpy._core."
    return written.replace(old, new) if old in written else written.replace(new, old)


def read(content):
    return unpickled_arrays(io.BytesIO(content), "file.pkl")


@pytest.mark.parametrize(
    "written",
    [*(pickle.dumps(CONTENT, protocol=protocol) for protocol in range(6)), of_python_2(), of_another_numpy()],
    ids=[*map(str, range(6)), "Python 2", "another numpy"],
)
def test_every_version_is_read(written):
    found = read(written)
    assert list(found) == list(CONTENT)
    for name in ("image_data", "turned", "labels", "share"):
        np.testing.assert_array_equal(found[name], CONTENT[name])
    assert found["image_data"].dtype == np.uint8 and found["class_dict"] == CONTENT["class_dict"]


class Payload:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_what_wants_to_run_code_is_refused_in_one_sentence(protocol, tmp_path):
    written = pickle.dumps({"image_data": Payload(os.makedirs, str(tmp_path / "ran"))}, protocol=protocol)
    with pytest.raises(InputError, match=r"^file\.pkl wants to run os\.makedirs: download it again$"):
        read(written)
    with pytest.raises(InputError, match=r"wants to run builtins\.eval|wants to run __builtin__\.eval"):
        read(pickle.dumps(Payload(eval, "1"), protocol=protocol))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"no pickle",
        pickle.dumps(CONTENT)[:100],
        pickle.dumps(np.array([{}], dtype=object)),
        pickle.dumps(np.array(["text"])),
        pickle.dumps(np.dtype("O")),
        pickle.dumps(Payload(np.ndarray, (1 << 40,))),
    ],
    ids=["empty", "none", "cut short", "objects", "text", "the kind of objects", "an array made by name"],
)
def test_what_is_no_whole_pickle_of_numbers_is_refused(written):
    with pytest.raises(InputError, match=r"^file\.pkl is not a whole pickle of arrays: download or copy it again$"):
        read(written)
