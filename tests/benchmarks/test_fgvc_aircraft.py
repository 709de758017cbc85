"""FGVC-Aircraft on a tiny copy of its archive: its parts, its boxes, its banner and its names."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import numpy as np
import pytest
from PIL import Image
from tiny_archives import SIZE, classes_of, colour_of, write_aircraft

from fewshot_pl.benchmarks import FGVCAircraft

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")


@pytest.fixture
def folder(cut, tmp_path):
    return write_aircraft(tmp_path, cut)


def pixels_of(folder, size=20, **settings):
    data = FGVCAircraft(root=str(folder.parent), image_size=size, **settings)
    return np.stack([images for _, images in data.class_images("test")])  # [class, image, 3, size, size]


def test_all_of_the_authors_parts_are_pooled_and_the_box_is_cut_out(cut, folder):
    every = classes_of(cut, "fgvc_aircraft")
    colours = np.array(
        [[colour_of(every.index(name), i) for i in range(3)] for name in sorted(cut("fgvc_aircraft")["test"])]
    )
    boxed = pixels_of(folder)
    # The box in the file ends one row into the banner, at row 31; what remains of it has the colour.
    np.testing.assert_allclose(boxed, np.broadcast_to(colours[..., None, None], boxed.shape), atol=25)


@pytest.mark.parametrize("bounding_box", [True, False])
def test_the_banner_is_cut_off(bounding_box, folder):
    for path in (folder / "data" / "images").iterdir():
        image = Image.new("RGB", SIZE, "blue")
        image.paste("red", (0, SIZE[1] - 20, *SIZE))
        image.save(path, quality=100, subsampling=0)
    box = "1 1 60 50"  # the whole image, banner included
    boxes = folder / "data" / "images_box.txt"
    boxes.write_text("".join(f"{line.split()[0]} {box}\n" for line in boxes.read_text().splitlines()))
    seen = pixels_of(folder, bounding_box=bounding_box)
    assert seen[:, :, 0].max() < 20 and seen[:, :, 2].min() > 240


def test_names_with_slashes_and_spaces_are_classes(cut, tmp_path, monkeypatch):
    monkeypatch.setattr(FGVCAircraft, "published_classes", lambda self, split: ["F-16A/B", "Falcon 2000"])
    folder = write_aircraft(tmp_path, lambda name: {"train": ["F-16A/B"], "val": [], "test": ["Falcon 2000"]})
    data = FGVCAircraft(root=str(folder.parent), image_size=8)
    assert [(name, len(images)) for name, images in data.class_images("test")] == [("F-16A/B", 3), ("Falcon 2000", 3)]
