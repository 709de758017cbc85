import errno
import itertools
import json
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from fewshot_pl.data import image_store
from fewshot_pl.data.image_store import BrokenStoreError, open_store, write_store
from fewshot_pl.errors import InputError


def some_classes(seed=0):
    random = np.random.default_rng(seed)
    return [(name, random.integers(0, 256, (n, 3, 4, 5), dtype=np.uint8)) for name, n in (("a", 2), ("b", 7), ("ü", 1))]


@pytest.fixture
def stored(tmp_path):
    write_store(tmp_path / "cache" / "train", some_classes())
    return tmp_path / "cache" / "train"


def test_what_is_written_is_read(stored):
    store = open_store(stored)
    assert store.class_names == ("a", "b", "ü")
    assert store.num_classes == 3
    assert store.class_starts.tolist() == [0, 2, 9, 10]
    for index, (_, images) in enumerate(some_classes()):
        np.testing.assert_array_equal(store.class_images(index), images)


def test_images_are_mapped_and_the_file_is_safe_from_writes(stored):
    before = (stored / "images.u8").read_bytes()
    images = open_store(stored).images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[:] = 0
    assert (stored / "images.u8").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="needs Linux")
def test_a_mapped_store_takes_no_memory_that_could_be_lacking(stored):
    """Writable maps, even copies, count against memory and swap; the flag "ac" of a map says so."""
    store = open_store(stored)
    maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    ours = [flags.split("\n")[0] for part, flags in itertools.pairwise(maps) if str(stored) in part]
    assert store.num_classes == 3 and len(ours) == 1 and "ac" not in ours[0].split()


def test_a_tensor_over_the_map_warns_of_nothing(stored):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tensor = open_store(stored).tensor()
    assert told == []
    np.testing.assert_array_equal(tensor, np.concatenate([images for _, images in some_classes()]))


@pytest.mark.parametrize("cause", [errno.ENOMEM, errno.EACCES, errno.EIO])
def test_a_store_that_the_place_does_not_let_read_is_not_broken(stored, monkeypatch, cause):
    def refused(*_, **__):
        raise OSError(cause, os.strerror(cause))

    with monkeypatch.context() as patched:
        patched.setattr(np, "memmap", refused)
        with pytest.raises(InputError, match=rf"train cannot be read \({os.strerror(cause)}\).*--data\.cache_dir"):
            open_store(stored)
        with pytest.raises(InputError, match="cannot be read"):
            write_store(stored, some_classes(seed=1))
    np.testing.assert_array_equal(open_store(stored).class_images(0), some_classes()[0][1])


def cut_short(folder: Path):
    (folder / "images.u8").write_bytes((folder / "images.u8").read_bytes()[:-1])


def flip_a_bit(folder: Path):
    content = bytearray((folder / "images.u8").read_bytes())
    content[100] ^= 4
    (folder / "images.u8").write_bytes(content)


def change_the_index(key, value):
    def change(folder: Path):
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(index | {key: value}))

    return change


DAMAGE = {
    "cut short": cut_short,
    "bit flipped": flip_a_bit,
    "no images": lambda folder: (folder / "images.u8").unlink(),
    "no index": lambda folder: (folder / "index.json").unlink(),
    "index cut short": lambda folder: (folder / "index.json").write_bytes((folder / "index.json").read_bytes()[:20]),
    "index of another kind": lambda folder: (folder / "index.json").write_text("[1, 2]"),
    "index is no text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe\x00"),
    "older format": change_the_index("format", 0),
    "other shape": change_the_index("shape", [10, 3, 5, 4]),
    "other classes": change_the_index("class_starts", [0, 3, 9, 10]),
    "other names": change_the_index("class_names", ["a", "c", "ü"]),
    "negative shape": change_the_index("shape", [-10, 3, 4, -5]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_noticed_and_overwritten(stored, damage):
    damage(stored)
    with pytest.raises(BrokenStoreError):
        open_store(stored)
    write_store(stored, some_classes())
    assert open_store(stored).class_names == ("a", "b", "ü")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [10, 12, 5]}, "of other images"),
        ({"class_names": ["a", "b"]}, "of other images"),
        ({"class_starts": [1, 2, 9, 10]}, "of other images"),
        ({"class_starts": [0, 2, 9, 11]}, "of other images"),
        ({"class_starts": [0, 9, 2, 10]}, "out of order"),
    ],
)
def test_an_index_that_cannot_be_is_noticed_under_its_own_checksum_too(stored, change, message):
    images = open_store(stored).images
    index = json.loads((stored / "index.json").read_text()) | change
    index["crc32"] = zlib.crc32(image_store._index_bytes(index), image_store._checksum(images))
    (stored / "index.json").write_text(json.dumps(index))
    with pytest.raises(BrokenStoreError, match=message):
        open_store(stored)


def test_no_flipped_bit_of_the_index_goes_unnoticed(stored):
    whole = (stored / "index.json").read_bytes()
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1
        (stored / "index.json").write_bytes(flipped)
        with pytest.raises(BrokenStoreError):
            open_store(stored)


def test_a_store_that_is_being_written_cannot_be_seen(tmp_path):
    path = tmp_path / "train"

    def watched():
        for pair in some_classes():
            assert not path.exists()
            yield pair

    write_store(path, watched())
    assert [entry.name for entry in tmp_path.iterdir()] == ["train"]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        yield some_classes()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "train", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_is_said_as_it_is_and_the_next_writer_succeeds(stored):
    def failing():
        yield some_classes()[0]
        raise InputError("cat.png is broken")

    cut_short(stored)
    with pytest.raises(InputError, match=r"cat\.png is broken"):
        write_store(stored, failing())
    write_store(stored, some_classes())
    assert open_store(stored).num_classes == 3


def test_the_faster_of_two_writers_wins(tmp_path):
    path = tmp_path / "train"

    def slower():
        yield from some_classes()
        write_store(path, some_classes())

    write_store(path, slower())
    assert open_store(path).num_classes == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["train"]


@pytest.mark.parametrize("cause", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_said_with_its_cure_and_leaves_nothing(tmp_path, monkeypatch, cause):
    def full(file):
        raise OSError(cause, "No space left on device")

    monkeypatch.setattr(image_store, "_flush_to_disk", full)
    with pytest.raises(InputError, match=r"cannot write .*train.*No space left.*--data\.cache_dir"):
        write_store(tmp_path / "cache" / "train", some_classes())
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_is_a_file_is_said_with_its_cure(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(InputError, match=r"--data\.cache_dir"):
        write_store(tmp_path / "cache" / "train", some_classes())


def test_the_checksum_is_that_of_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "_CHUNK_BYTES", 7)
    images = some_classes()[1][1]
    assert image_store._checksum(images) == zlib.crc32(images.tobytes())
