"""CUB on a tiny copy of its archive: its bounding boxes, its masks, and its download."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from serving import serving
from tiny_archives import BOX, IMAGES, SIZE, classes_of, colour_of, packed, write_cub

from fewshot_pl.benchmarks import CUB
from fewshot_pl.data.download import Remote
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")


@pytest.fixture
def folder(cut, tmp_path, monkeypatch):
    folder = write_cub(tmp_path / "written", cut)
    monkeypatch.setattr(CUB, "remotes", ())
    return folder


def pixels_of(root, **settings):
    data = CUB(root=str(root), image_size=20, **settings)
    return np.stack([images for _, images in data.class_images("val")])  # [class, image, 3, 20, 20]


def test_the_box_is_cut_out_where_asked_for(cut, folder):
    every = classes_of(cut, "cub")
    colours = np.array([[colour_of(every.index(name), i) for i in range(IMAGES)] for name in sorted(cut("cub")["val"])])
    boxed = pixels_of(folder.parent, bounding_box=True)
    np.testing.assert_allclose(boxed, np.broadcast_to(colours[..., None, None], boxed.shape), atol=25)

    whole = pixels_of(folder.parent)
    # The box keeps its share of the whole image, whose proportions are changed.
    left, right = BOX[0] * 20 // SIZE[0] + 2, BOX[2] * 20 // SIZE[0] - 2
    upper, lower = BOX[1] * 20 // SIZE[1] + 2, BOX[3] * 20 // SIZE[1] - 2
    inside = whole[..., upper:lower, left:right]
    np.testing.assert_allclose(inside, np.broadcast_to(colours[..., None, None], inside.shape), atol=12)
    assert whole[..., :1, :].min() > 200 and whole[..., -6:, :].min() > 200 and whole[..., -4:].min() > 200


def test_a_box_beyond_the_image_ends_with_it(folder):
    lines = (folder / "bounding_boxes.txt").read_text().splitlines()
    numbers = [line.split()[0] for line in lines]
    (folder / "bounding_boxes.txt").write_text("".join(f"{n} 10.0 6.0 500.0 500.0\n" for n in numbers))
    boxed = pixels_of(folder.parent, bounding_box=True)
    assert boxed[..., -4:, :].min() > 200 and boxed[..., -4:].min() > 200  # white, and no black around it


def test_an_image_without_a_box_is_named(folder):
    lines = (folder / "bounding_boxes.txt").read_text().splitlines(keepends=True)
    (folder / "bounding_boxes.txt").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"image .*\.jpg has no bounding box: .* --data\.bounding_box false"):
        pixels_of(folder.parent, bounding_box=True)


@pytest.fixture
def server(folder):
    """Serves the files beside the benchmark's folder, and counts its answers."""

    class Handler(SimpleHTTPRequestHandler):
        answers = 0

        def do_GET(self):
            Handler.answers += 1
            super().do_GET()

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder.parent)))
    server.handler = Handler
    with serving(server):
        yield server


@pytest.fixture
def published(folder, server, monkeypatch):
    archive = packed(folder, folder.parent / "CUB_200_2011.tgz")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/CUB_200_2011.tgz"
    monkeypatch.setattr(CUB, "remotes", (Remote("CUB_200_2011.tgz", md5, (url,)),))
    return archive


def prepared(root, cache):
    data = CUB(root=str(root), cache_dir=str(cache), num_ways=2, num_queries=1)
    data.prepare_data()
    data.setup("fit")
    return data


def test_it_is_downloaded_once_and_its_cache_outlives_it(published, server, tmp_path):
    root, cache = tmp_path / "root", tmp_path / "cache"
    first = prepared(root, cache)
    assert server.handler.answers == 1
    assert [path.name for path in root.iterdir() if path.suffix != ".lock"] == ["CUB_200_2011.tgz"]
    prepared(root, cache)
    (root / "CUB_200_2011.tgz").unlink()
    again = prepared(root, cache)
    assert server.handler.answers == 1
    np.testing.assert_array_equal(first.stores["train"].images, again.stores["train"].images)


def test_an_archive_of_the_published_name_must_be_the_published_one(published, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "CUB_200_2011.tgz").write_bytes(published.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"CUB_200_2011\.tgz is not the published file .*get CUB_200_2011\.tgz from"):
        prepared(root, tmp_path / "cache")


def test_what_is_extracted_needs_no_download(published, folder, server, tmp_path):
    published.unlink()
    prepared(folder.parent, tmp_path / "cache")
    assert server.handler.answers == 0


def test_masks_beside_the_images_are_none_of_them(folder, cut):
    before = pixels_of(folder.parent)
    for image in (folder / "images").rglob("*.jpg"):
        mask = folder / "segmentations" / image.parent.name / f"{image.stem}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE).save(mask)
    np.testing.assert_array_equal(pixels_of(folder.parent), before)
