"""Any bytes for an archive, a file of annotations, a cache or a checkpoint, and any words for a command."""

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot_pl.benchmarks import boxed_photographs, cub, fgvc_aircraft, fungi
from fewshot_pl.benchmarks.placed import _parsed
from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.cli import TrainCLI
from fewshot_pl.data.archives import TarTree, ZipTree
from fewshot_pl.data.image_store import BrokenStoreError, _index_bytes, open_store, write_store
from fewshot_pl.errors import InputError
from fewshot_pl.evaluation.flags import request
from fewshot_pl.guard import guarded
from fewshot_pl.prediction.command import _parser as prediction_parser

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # each example writes its files anew


def fuzzed(num_examples: int) -> Any:
    return settings(derandomize=True, deadline=None, max_examples=num_examples, suppress_health_check=_SHARED)


def spoiled(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some of them changed or cut off, or any bytes at all."""
    edits = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    return st.one_of(
        edits.map(lambda changes: _edited(whole, changes)),
        st.integers(0, len(whole) - 1).map(lambda end: whole[:end]),
        st.binary(max_size=600),
    )


def _edited(whole: bytes, changes: list[tuple[int, int]]) -> bytes:
    content = bytearray(whole)
    for place, byte in changes:
        content[place] = byte
    return bytes(content)


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name in ("set/cat/1.png", "set/dog/2.png", "set/labels.txt"):
                zipped.writestr(name, b"some content " * 9)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode=f"w:{kind}", format=tarfile.PAX_FORMAT) as packed:
        for name in ("set/cat/1.png", f"set/{'dog' * 40}/ü.png"):
            member = tarfile.TarInfo(name)
            member.size = 100
            packed.addfile(member, io.BytesIO(bytes(range(100))))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz", ""])
def test_an_archive_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "archive"

    @fuzzed(40)
    @given(spoiled(archive(kind)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        tree = ZipTree(path) if kind == "zip" else TarTree(path)
        try:
            for name in tree.files:
                assert isinstance(tree.read(name), bytes)
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        finally:
            tree.close()
        assert list(tmp_path.iterdir()) == [path]

    check()


_TABLE = {"images": [{"id": 1, "file_name": "images/a/b.JPG"}], "annotations": [{"image_id": 1, "category_id": 2}]}
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=9)


@pytest.mark.parametrize(
    ("parse", "whole"),
    [
        (fungi._categories, json.dumps(_TABLE).encode()),
        (cub._boxes, b"1 10.0 6.0 32.0 20.0\n2 1.0 2.0 3.0 4.0\n"),
        (fgvc_aircraft._boxes, b"0034309 11 7 42 31\n0034310 1 2 3 4\n"),
        (boxed_photographs.by_first_word, b"0034309 707-320\n0034310 A330-200\n"),
    ],
)
def test_annotations_are_read_or_refused(parse: Callable[[bytes], Any], whole: bytes) -> None:
    @fuzzed(30)
    @given(spoiled(whole) | _JSON.map(lambda value: json.dumps(value).encode()))
    def check(content: bytes) -> None:
        try:
            assert isinstance(_parsed(content, "table.json", parse), dict)
        except InputError as error:
            assert "table.json cannot be read" in str(error)

    check()


def test_a_store_is_whole_or_refused(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    write_store(tmp_path / "store", [("a", images[:1]), ("ü", images[1:])])
    files = {name: (tmp_path / "store" / name).read_bytes() for name in ("index.json", "images.u8")}

    @fuzzed(120)
    @given(*(spoiled(content) | st.just(content) for content in files.values()))
    def check(index: bytes, pixels: bytes) -> None:
        (tmp_path / "store" / "index.json").write_bytes(index)
        (tmp_path / "store" / "images.u8").write_bytes(pixels)
        try:
            store = open_store(tmp_path / "store")
        except BrokenStoreError:
            return
        assert store.class_names == ("a", "ü") and store.class_starts.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(store.images, images)

    check()


def test_an_index_with_the_right_checksum_makes_sense_or_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.u8").write_bytes(bytes(range(120)))
    shapes = st.just([2, 3, 4, 5]) | st.lists(st.integers(-3, 8) | st.just(2**63), max_size=5) | _JSON
    starts = st.just([0, 1, 2]) | st.lists(st.integers(-3, 8) | st.just(2**63), max_size=4) | _JSON

    @fuzzed(60)
    @given(shapes, st.just(["a", "b"]) | _JSON, starts)
    def check(shape: Any, names: Any, class_starts: Any) -> None:
        index = {"format": 1, "shape": shape, "class_names": names, "class_starts": class_starts}
        index["crc32"] = zlib.crc32(_index_bytes(index), zlib.crc32(bytes(range(120))))
        (tmp_path / "index.json").write_text(json.dumps(index))
        try:
            store = open_store(tmp_path)
        except BrokenStoreError:
            return
        assert sum(len(store.class_images(number)) for number in range(store.num_classes)) == len(store.images)

    check()
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(BrokenStoreError):
        open_store(tmp_path)


def test_a_checkpoint_is_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "any.ckpt"
    weights = torch.arange(20.0)
    torch.save({"algorithm": "ProtoNet", "hyper_parameters": {"a": 1}, "state_dict": {"weight": weights}}, path)

    @fuzzed(80)
    @given(spoiled(path.read_bytes()))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            opened = opened_checkpoint(path)
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            return
        assert opened["hyper_parameters"] == {"a": 1}
        assert torch.equal(opened["state_dict"]["weight"], weights)

    check()


_FLAGS = ["--model", "--data", "--data.num_ways", "--model.norm", "--trainer.max_epochs", "--optimizer", "--pictures"]
_FLAGS += ["--config", "--ckpt_path", "--seed_everything", "--trainer.callbacks", "--support", "--query", "--split"]
_FLAGS += ["--ways", "--compare", "--output", "--model.init_args", "--data.class_path", "--", "-", "--x", "-h9"]
_VALUES = [
    "1",
    "-1",
    "1e400",
    "null",
    "{}",
    "[",
    "{a: [1",
    "ProtoNet",
    "MAML",
    "os.system",
    "",
    "é\udce9",
    "!!python/x",
]
_WORDS = st.lists(st.sampled_from(_FLAGS) | st.sampled_from(_VALUES) | st.text(max_size=6), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("parse", "num_examples"),
    [(TrainCLI, 8), (lambda words: request(list(words)), 10), (prediction_parser().parse_args, 40)],
    ids=["train", "evaluate", "predict"],
)
def test_any_words_are_understood_or_refused(
    parse: Any, num_examples: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @fuzzed(num_examples)
    @given(_WORDS)
    def check(words: list[str]) -> None:
        capsys.readouterr()
        try:
            code: Any = guarded(parse)(words)
        except SystemExit as stop:
            code = stop.code
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) in ((0, 0), (2, 1))

    check()
