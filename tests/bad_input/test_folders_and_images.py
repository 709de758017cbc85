"""Folders and images that train.py and predict.py refuse."""

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_rows import Bad
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
IMAGE = Path("images/train/train0/0.png")
EXAMPLE, QUERY = Path("support/red/0.png"), Path("query/new/0.png")


def written(path: Path, content: bytes) -> Callable[[], object]:
    return lambda: path.write_bytes(content)


def cut(path: Path) -> Callable[[], object]:
    return lambda: path.write_bytes(path.read_bytes()[:-30])


def deep(path: Path, value: float, kind: type) -> Callable[[], object]:
    """Put a TIFF of 32 bits in the place of an image."""
    return lambda: Image.fromarray(np.full((20, 20), value, dtype=kind)).save(path, "TIFF")


def removed(*folders: str) -> Callable[[], object]:
    return lambda: [shutil.rmtree(folder) for folder in folders]


def linked(path: Path, target: str) -> Callable[[], object]:
    return lambda: (path.unlink(missing_ok=True), path.symlink_to(target))


def piped(path: Path) -> Callable[[], object]:
    return lambda: (path.unlink(), os.mkfifo(path))


def enormous(path: Path) -> Callable[[], object]:
    """Make a sparse file of 2 GiB, without a block on the disk."""
    return lambda: os.truncate(path, 2 << 30)


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, a thousandth of the size of its pixels, as a decompression bomb is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(min((width + 1) * height, 1 << 20)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
DECODED = "cannot be decoded"
FOLDERS = {
    "no folder": Bad("train --data.root nowhere", "there is no folder nowhere"),
    "a file for the folder": Bad("train --data.root protonet.ckpt", "there is no folder protonet.ckpt"),
    "an empty folder": Bad("train --data.root empty", "empty holds no folders", lambda: Path("empty").mkdir()),
    "a class without images": Bad("train", "extra holds no image", lambda: Path("images/train/extra").mkdir()),
    "no classes to test on": Bad("train", "and 0 test classes", removed("images/test")),
    "a link that leads nowhere": Bad("train", "train0/x.png cannot be read", linked(IMAGE.with_name("x.png"), "gone")),
    "a link to itself": Bad("train", "train0/x.png cannot be read", linked(IMAGE.with_name("x.png"), "x.png")),
    "a pipe": Bad("train", "0.png is no file that can be read to its end", piped(IMAGE)),
    "an endless device": Bad("predict", "0.png is no file that can be read", linked(EXAMPLE, "/dev/zero")),
    "an image of gigabytes": Bad("train", "0.png has 2.0 GiB", enormous(IMAGE)),
    "no support": Bad("predict --support nowhere", "there is no folder nowhere"),
    "a support of one class": Bad("predict", "holds 1 class folder and at least two", removed("support/red")),
    "a support of images without classes": Bad("predict --support query/new", "holds no class folders"),
    "a class without examples": Bad("predict", "blue holds no image", lambda: Path("support/blue").mkdir()),
    "no query": Bad("predict --query nowhere", "there is no file or folder nowhere"),
    "a pattern that fits nothing": Bad("predict --query 'query/*.tif'", "there is no file or folder"),
    "a query of no image": Bad("predict --query protonet.ckpt", "names no image"),
    "more classes than outputs": Bad(
        "predict --ckpt_path maml.ckpt",
        "head of 3 outputs and you gave 4 classes",
        lambda: [shutil.copytree("support/red", f"support/{name}") for name in ("blue", "grey")],
    ),
    "a share above 1": Bad("predict --false_reject 2", "0 to 1"),
    "no images at once": Bad("predict --batch_size 0", "batch_size must be at least 1"),
    "an unknown device": Bad("predict --device abacus", "no device abacus"),
    "a file for the output": Bad("predict --output protonet.ckpt", "give --output another place"),
    "a file above the output": Bad("predict --output protonet.ckpt/out", "give --output another place"),
}
IMAGES = {
    "zero bytes": Bad("train", DECODED, written(IMAGE, b"")),
    "cut short": Bad("train", DECODED, cut(IMAGE)),
    "a page": Bad("train", DECODED, written(IMAGE, b"<html>404 Not Found</html>")),
    "a decompression bomb": Bad("train", "2500000000 pixels, too many", written(IMAGE, png(50_000, 50_000))),
    "20,000 pixels a side": Bad("train", "400000000 pixels, too many", written(IMAGE, png(20_000, 20_000))),
    "fewer pixels than said": Bad("train", DECODED, written(IMAGE, png(2000, 2000))),
    "a program for a printer": Bad("train", "no known image format", written(IMAGE, POSTSCRIPT)),
    "a pixel that is no number": Bad("train", "0.png has pixels that are no finite", deep(IMAGE, np.nan, np.float32)),
    "32 bits of a range that nobody knows": Bad("train", "convert it to 8 bits", deep(IMAGE, 100_000, np.int32)),
    "an example with a pixel that is no number": Bad("predict", "0.png has pixels", deep(EXAMPLE, np.nan, np.float32)),
    "an example of zero bytes": Bad("predict", DECODED, written(EXAMPLE, b"")),
    "an example cut short": Bad("predict", DECODED, cut(EXAMPLE)),
    "an example that is a bomb": Bad("predict", "too many to decode", written(EXAMPLE, png(50_000, 50_000))),
}


@pytest.mark.parametrize("bad", FOLDERS.values(), ids=FOLDERS)
def test_folders(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)


@pytest.mark.parametrize("bad", IMAGES.values(), ids=IMAGES)
def test_images(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)


def test_a_bad_query_loses_no_other(answered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    QUERY.write_bytes(b"")
    assert answered("predict") == 2
    assert "1 of 2 images is not labelled" in capsys.readouterr().err
    assert len(Path("predictions/predictions.csv").read_text().splitlines()) == 1 + 1


def test_an_image_without_permission(check_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in, as root may read everything."""
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path == EXAMPLE:  # not the same file by its absolute path, by which the test reads it
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    check_refused(Bad("predict", "support/red/0.png cannot be read (Permission denied)"))


def test_a_folder_without_permission(check_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: str) -> Any:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("fewshot_pl.data.image_tree.os.scandir", refused)
    check_refused(Bad("predict", "support/green/ cannot be read (Permission denied)"))
