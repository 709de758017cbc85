"""Images and names that are odd but valid, and what is made of them."""

import csv
import io
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewshot_pl.benchmarks import ImageFolder

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
RED, BLUE = (200, 40, 40), (40, 40, 200)


def plain(size: tuple[int, int] = (20, 20), colour: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", size, colour)


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full((20, 20), 25700, dtype=np.uint16))  # 100 of 255


def deep(value: float, kind: type) -> Image.Image:
    """One colour in 32 bits."""
    return Image.fromarray(np.full((20, 20), value, dtype=kind))


def turned() -> dict[str, Any]:
    """The EXIF data of a photograph to be rotated by 90 degrees."""
    exif = Image.Exif()
    exif[274] = 6
    return {"exif": exif}


def oddly_turned() -> dict[str, Any]:
    """The same, with a resolution that is a letter instead of a number."""
    tags = [(274, 3, 1, struct.pack("<HH", 6, 0)), (282, 2, 1, b"x\0\0\0")]
    entries = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags))
    return {"exif": head + entries + bytes(4), "quality": 100}


def halves() -> Image.Image:
    """Red above blue, on its side: turned upright, its left half is on top."""
    image = plain()
    image.paste(BLUE, (0, 0, 10, 20))
    return image.transpose(Image.Transpose.ROTATE_180)


def moving(kind: str) -> bytes:
    file = io.BytesIO()
    plain().save(file, kind, save_all=True, append_images=[plain(colour=BLUE)] * 3, duration=50)
    return file.getvalue()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def transparent() -> Image.Image:
    return Image.new("RGBA", (20, 20), (*RED, 0))


# The file's ending, its contents, and the mean colour that a network sees.
ODD: dict[str, tuple[str, Callable[[], bytes], tuple[int, int, int]]] = {
    "CMYK": ("jpg", lambda: encoded(plain().convert("CMYK"), "jpeg", quality=100), RED),
    "16 bit": ("png", lambda: encoded(sixteen_bit(), "png"), (100, 100, 100)),
    "16 bit TIFF": ("tif", lambda: encoded(sixteen_bit(), "tiff"), (100, 100, 100)),
    "32 bit": ("tif", lambda: encoded(deep(100, np.int32), "tiff"), (100, 100, 100)),
    "floating point to 65535": ("tif", lambda: encoded(deep(25700, np.float32), "tiff"), (100, 100, 100)),
    "floating point": ("tif", lambda: encoded(Image.new("F", (20, 20), 0.4), "tiff"), (102, 102, 102)),
    "black and white": ("png", lambda: encoded(Image.new("1", (20, 20), 1), "png"), (255, 255, 255)),
    "a palette": ("gif", lambda: encoded(plain(), "gif"), RED),
    "transparent": ("png", lambda: encoded(transparent(), "png"), (255, 255, 255)),
    "an animated GIF: the first picture": ("gif", lambda: moving("gif"), RED),
    "an animated PNG: the first picture": ("png", lambda: moving("png"), RED),
    "an animated WebP: the first picture": ("webp", lambda: moving("webp"), RED),
    "a photograph on its side: upright": ("jpg", lambda: encoded(halves(), "jpeg", quality=100, **turned()), None),
    "EXIF that is none": ("jpg", lambda: encoded(plain(), "jpeg", quality=100, exif=b"Exif\0\0nonsense"), RED),
    "a PNG's EXIF that is none": ("png", lambda: encoded(plain(), "png", exif=b"Exif\0\0nonsense"), RED),
    "EXIF that is cut": ("png", lambda: encoded(plain(), "png", exif=b"Exif\0\0II*\0\x08"), RED),
    "EXIF that is none and dots per inch": (
        "jpg",
        lambda: encoded(plain(), "jpeg", quality=100, dpi=(72, 72), exif=b"Exif\0\0nonsense"),
        RED,
    ),
    "on its side, with a tag that Pillow cannot write": (
        "jpg",
        lambda: encoded(halves(), "jpeg", **oddly_turned()),
        None,
    ),
    "Lab colours": ("tif", lambda: encoded(Image.new("LAB", (20, 20), (255, 128, 128)), "tiff"), (255, 255, 255)),
    "a single pixel": ("png", lambda: encoded(plain((1, 1)), "png"), RED),
    "a line of 20,000 pixels": ("png", lambda: encoded(plain((20_000, 1)), "png"), RED),
    "20,000 pixels a side of a JPEG": ("jpg", lambda: encoded(plain((20_000, 40)), "jpeg", quality=100), RED),
    "the ending of another format": ("png", lambda: encoded(plain(), "jpeg", quality=100), RED),
}
NAMES = {
    "Chinese": "猫",
    "Arabic": "قطة",
    "Hindi": "बिल्ली",
    "emoji": "👩‍🚀",
    "spaces": "  a  cat ",
    "dashes": "--model",
    "quotes": '"it\'s"',
    "a tag": "<script>alert(1)<",
    "a formula": "$\\frac{a}$ & 5% #1_{2}^3",
    "a turn of direction": "\u202egnp.tac",
    "a new line and a tab": "a\nb\tc",
    "a terminal's command": "\x1b[2J\x07",
    "bytes that are no text": "caf\udce9",
    "a pattern": "[a-z]*?",
    "255 bytes": "x" * 250,
}


@pytest.mark.parametrize(("ending", "content", "colour"), ODD.values(), ids=ODD)
def test_odd_images_are_seen_as_they_look(ending: str, content: Any, colour: Any, place: Path, answered: Any) -> None:
    for path in (Path(f"images/train/train0/odd.{ending}"), Path(f"query/new/odd.{ending}")):
        path.write_bytes(content())
    data = ImageFolder(root="images", image_size=16, num_ways=2, num_queries=1)
    images = dict(data.class_images("train"))["train0"]
    odd = images[-1]  # by its name
    if colour is None:
        assert odd[0, :7].mean() > 150 and odd[0, 9:].mean() < 90, "red is not above"
    else:
        np.testing.assert_allclose(odd.mean((1, 2)), colour, atol=3)
    assert answered("predict") == 0
    assert f"odd.{ending}" in Path("predictions/predictions.csv").read_text()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_odd_names_of_classes_and_files(name: str, place: Path, answered: Any, capsys: Any) -> None:
    Path("support/red").rename(Path("support") / name)
    Path("query/new/0.png").rename(Path("query/new") / f"{name}.png")
    Path("query/new/1.png").unlink()
    (Path("query/new") / f"{name}.txt").write_text("no image")
    assert answered("predict") == 0
    text = Path("predictions/predictions.csv").read_bytes().decode(errors="surrogateescape")
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert row[0] == f"query/new/{name}.png" and name in (row[1], row[4])
    assert len(row) == len(header)
    page = Path("predictions/report.html").read_text("utf-8")
    assert page.count("<script>") == 1 and "\x1b" not in page and "\u202e" not in page


def test_odd_names_in_training(place: Path, answered: Any) -> None:
    """Class names of all kinds go into TensorBoard's pictures and tables, and into a report."""
    shutil.rmtree("images")
    for number, name in enumerate(list(NAMES.values())[3:13]):
        for split in ("train", "val", "test"):
            Path("images", split, name).mkdir(parents=True)
            for image in range(2):
                plain(colour=(number * 15, image * 40, 90)).save(Path("images", split, name, f"{image}.png"))
    assert answered("train --pictures confusion embedding --data.augment none") == 0
    (table,) = Path("runs").rglob("metadata.tsv")
    rows = [line.split("\t") for line in table.read_text("utf-8").splitlines()]
    assert {len(row) for row in rows} == {3} and len(rows) == 1 + 2 * 2 * 2  # episodes, classes, images
    checkpoint = next(Path("runs").rglob("best.ckpt"))
    assert answered(f"evaluate --ckpt_path {checkpoint} --report report --latex --ways 10") == 0
    page = Path("report/report.html").read_text("utf-8")
    assert "<script" not in page and "\u202e" not in page and "\x1b" not in page
    for shown in ("&lt;script&gt;alert(1)&lt;", "\\u202egnp.tac", "a\\nb\\tc", "caf\\udce9", NAMES["emoji"]):
        assert f'<td class="name">{shown}</td>' in page


def test_a_loop_of_links_is_walked_once(place: Path) -> None:
    folder = Path("images/train/train0")
    (folder / "loop").symlink_to("..", target_is_directory=True)
    (folder / "again").symlink_to(folder.resolve(), target_is_directory=True)
    data = ImageFolder(root="images", image_size=16, num_ways=2, num_queries=1)
    sizes = {name: len(images) for name, images in data.class_images("train")}
    assert sizes == {"train0": 2 + 2 * 2, "train1": 2, "train2": 2}  # those of train1 and train2 through the link
