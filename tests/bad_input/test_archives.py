"""Archives, split files and annotation files that benchmarks refuse."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_rows import Bad
from tiny_archives import cut_splits, photograph

from fewshot_pl.data import archives

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning", "ignore:.*no figure will be comparable")
PLACE = Path("set")
TRAIN = "train --data MiniImageNet --data.root set"
FUNGI, QUICKDRAW = ("train --data Fungi --data.root set", "train --data Quickdraw --data.root set")


def zipped(*members: str, name: str = "mini_imagenet.zip", kind: int = zipfile.ZIP_STORED) -> Callable[[], object]:
    def write() -> None:
        PLACE.mkdir()
        with zipfile.ZipFile(PLACE / name, "w", kind) as archive:
            for member in members:
                archive.writestr(member, photograph(0, 0))

    return write


def tarred(
    *members: str, name: str = "mini_imagenet.tgz", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> Callable[[], object]:
    def write() -> None:
        PLACE.mkdir()
        with tarfile.open(PLACE / name, "w:gz") as archive:
            for member in members:
                entry = tarfile.TarInfo(member)
                entry.type, entry.linkname = kind, target
                content = photograph(0, 0) if kind == tarfile.REGTYPE else b""
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    return write


def spoiled(write: Callable[[], object], change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """A function that writes a file and then changes its bytes."""

    def spoil() -> None:
        write()
        (file,) = PLACE.iterdir()
        file.write_bytes(change(file.read_bytes()))

    return spoil


def placed(name: str, content: bytes) -> Callable[[], object]:
    def write() -> None:
        (PLACE / name).parent.mkdir(parents=True)
        (PLACE / name).write_bytes(content)

    return write


def encrypted(archive: bytes) -> bytes:
    """The archive with its first member marked as encrypted, in both places that say so."""
    changed = bytearray(archive)
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[archive.index(start) + flags] |= 1
    return bytes(changed)


def declared(size: int) -> Callable[[bytes], bytes]:
    """A function that changes the stated size of an archive's first member, in both places."""

    def change(archive: bytes) -> bytes:
        changed = bytearray(archive)
        for start, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<I", changed, archive.index(start) + place, size)
        return bytes(changed)

    return change


def bomb() -> None:
    """Write 16 MiB of zeros as a .tgz of 16 kB."""
    PLACE.mkdir()
    with tarfile.open(PLACE / "mini_imagenet.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo(INSIDE)
        entry.size = 1 << 24
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


INSIDE = "mini_imagenet/n01532829/n01532829_1.jpg"
TOWER = "quickdraw/The Eiffel Tower.npy"  # the first class
NO_IMAGES = "has no images in set/mini_imagenet"
NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n"
ARCHIVES = {
    "no archive": Bad(TRAIN, "is not a whole zip archive", spoiled(zipped(INSIDE), lambda _: b"<html>404</html>")),
    "zero bytes": Bad(TRAIN, "is not a whole zip archive", spoiled(zipped(INSIDE), lambda _: b"")),
    "a zip cut short": Bad(TRAIN, "is not a whole zip archive", spoiled(zipped(INSIDE), half)),
    "a tar cut short": Bad(TRAIN, "is not a whole tar archive", spoiled(tarred(INSIDE), half)),
    "no tar": Bad(TRAIN, "is not a whole tar archive", spoiled(tarred(INSIDE), lambda _: b"<html>404</html>")),
    "a password": Bad(TRAIN, "wants a password: unpack it", spoiled(zipped(INSIDE), encrypted)),
    "a rare compression": Bad(TRAIN, "compressed in a rare way", zipped(INSIDE, kind=zipfile.ZIP_BZIP2)),
    "paths that lead out of a zip": Bad(TRAIN, NO_IMAGES, zipped("../n01532829/1.jpg")),
    "paths that lead out of a tar": Bad(TRAIN, NO_IMAGES, tarred("../n01532829/1.jpg")),
    "absolute paths": Bad(TRAIN, NO_IMAGES, tarred("/tmp/fewshot_pl_outside.jpg")),
    "links that point outside": Bad(TRAIN, NO_IMAGES, tarred(INSIDE, kind=tarfile.SYMTYPE, target="/etc/passwd")),
    "hard links that point outside": Bad(TRAIN, NO_IMAGES, tarred(INSIDE, kind=tarfile.LNKTYPE, target="../x.jpg")),
    "devices": Bad(TRAIN, NO_IMAGES, tarred(INSIDE, kind=tarfile.CHRTYPE)),
    "a zip bomb that says so": Bad(TRAIN, "has 3.0 GiB", spoiled(zipped(INSIDE), declared(3 << 30))),
    "a zip bomb that says less": Bad(
        TRAIN, "Bad CRC-32", spoiled(zipped(INSIDE, kind=zipfile.ZIP_DEFLATED), declared(10))
    ),
    "a tar bomb": Bad(TRAIN, "unpacks to more than 100 times its size", bomb),
}
ANNOTATIONS = {
    "no tables of the species": Bad(FUNGI, "there is no train.json", placed("fungi/a.json", b"{}")),
    "a table that is no JSON": Bad(FUNGI, "train.json cannot be read", placed("fungi/train.json", b"{")),
    "a table that is deep": Bad(FUNGI, "train.json cannot be read", placed("fungi/train.json", b"[" * 100_000)),
    "a table of something else": Bad(FUNGI, "train.json cannot be read", placed("fungi/train.json", b"[1, 2]")),
    "drawings that are no array": Bad(QUICKDRAW, "is not a whole .npy file", placed(TOWER, b"")),
    "drawings that are a pickle": Bad(QUICKDRAW, "is not a whole .npy file", placed(TOWER, NPY)),
}


@pytest.mark.parametrize("bad", ARCHIVES.values(), ids=ARCHIVES)
def test_archives(bad: Bad, check_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_splits(monkeypatch, num_classes=1)
    monkeypatch.setattr(archives, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    check_refused(bad)
    assert not Path("/tmp/fewshot_pl_outside.jpg").exists()


@pytest.mark.parametrize("bad", ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_annotations(bad: Bad, check_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_splits(monkeypatch, num_classes=1)
    check_refused(bad)
