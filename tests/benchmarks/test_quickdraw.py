"""Quick, Draw! on files of a few drawings: which drawings it takes, and which files it refuses."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import json
import pickle
from urllib.parse import quote

import numpy as np
import pytest
from tiny_archives import classes_of, packed

from fewshot_pl.benchmarks import Quickdraw
from fewshot_pl.data.datamodule import SPLITS
from fewshot_pl.errors import InputError


def drawings(index, count=10):
    """Noise with the class in the first value of each drawing and its number in the second."""
    bitmaps = np.random.default_rng(index).integers(0, 256, (count, 784), dtype=np.uint8)
    bitmaps[:, 0], bitmaps[:, 1] = index, np.arange(count)
    return bitmaps


@pytest.fixture
def folder(cut, tmp_path):
    folder = tmp_path / "written" / "quickdraw"
    folder.mkdir(parents=True)
    for index, name in enumerate(classes_of(cut, "quickdraw")):
        np.save(folder / f"{name}.npy", drawings(index))
    return folder


def images_of(root, split="test", **settings):
    names, images = zip(*Quickdraw(root=str(root), **settings).class_images(split), strict=True)
    return list(names), np.stack(images)


@pytest.mark.parametrize(
    "form",
    ["folder", "the folder itself", "zip", "tgz", "names of the web page", "names of its addresses", "encoded spaces"],
)
def test_every_form_gives_the_bitmaps_of_the_published_split(form, cut, folder, tmp_path):
    root = {"folder": folder.parent, "the folder itself": folder}.get(form, tmp_path)
    if form in ("zip", "tgz"):
        packed(folder, tmp_path / f"quickdraw.{form}")
    renamed = {
        "names of the web page": lambda name: f"full_numpy_bitmap_{name.replace(' ', '_')}",
        "names of its addresses": lambda name: quote(f"full/numpy_bitmap/{name}", safe=""),
        "encoded spaces": quote,
    }
    if form in renamed:
        for path in list(folder.iterdir()):
            path.rename(folder / renamed[form](path.name))
        root = folder.parent
    every = classes_of(cut, "quickdraw")
    assert any(" " in name for name in every)
    for split in SPLITS:
        names, images = images_of(root, split)
        assert names == sorted(cut("quickdraw")[split])
        assert images.shape == (2, 10, 1, 28, 28) and images.dtype == np.uint8
        for name, of_class in zip(names, images, strict=True):
            np.testing.assert_array_equal(of_class.reshape(10, 784), drawings(every.index(name)))


@pytest.mark.parametrize(("count", "taken"), [(4, [0, 2, 5, 7]), (10, range(10)), (99, range(10)), (None, range(10))])
def test_drawings_are_taken_evenly_over_a_file(count, taken, folder):
    _, images = images_of(folder, images_per_class=count)
    np.testing.assert_array_equal(images[0, :, 0, 0, 1], list(taken))


def test_the_number_of_drawings_is_part_of_the_fingerprint(folder):
    fingerprints = {json.dumps(Quickdraw(root=str(folder), images_per_class=n).source_fingerprint()) for n in (3, 4)}
    assert len(fingerprints) == 2
    before = Quickdraw(root=str(folder)).source_fingerprint()
    np.save(next(folder.iterdir()), drawings(0, count=11))
    assert Quickdraw(root=str(folder)).source_fingerprint() != before


def test_it_trains_and_evaluates_on_them(folder, tmp_path):
    data = Quickdraw(root=str(folder), cache_dir=str(tmp_path / "cache"), num_ways=2, num_queries=3)
    data.prepare_data()
    data.setup("fit")
    episode = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert episode.query_x.shape == (1, 6, 1, 28, 28)
    assert episode.query_x.min() >= 0 and episode.query_x.max() <= 1


class Payload:
    def __reduce__(self):
        return pickle.loads, (b"cos\nabort\n(tR.",)


@pytest.mark.parametrize("content", ["cut short", "another kind", "another shape", "code"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_bad_file_is_named_and_no_code_in_it_is_run(form, content, cut, folder, tmp_path):
    path = folder / f"{sorted(cut('quickdraw')['test'])[0]}.npy"
    if content == "cut short":
        path.write_bytes(path.read_bytes()[:200])
    else:
        arrays = {"another kind": np.zeros((3, 784)), "another shape": np.zeros((3, 28, 28), np.uint8)}
        np.save(path, arrays.get(content, np.array([Payload()], dtype=object)), allow_pickle=True)
    root = folder.parent if form == "folder" else packed(folder, tmp_path / "quickdraw.zip").parent
    with pytest.raises(InputError, match=rf"{path.name} (is not a whole \.npy file|holds .* in place of uint8)"):
        images_of(root)


def test_bad_input_is_named_with_its_cure(cut, folder, tmp_path):
    name = sorted(cut("quickdraw")["test"])[1]
    (folder / f"{name}.npy").unlink()
    with pytest.raises(InputError, match=rf"class '{name}' has no images .*{name}\.npy"):
        images_of(folder)
    with pytest.raises(InputError, match="images_per_class must be at least 1"):
        Quickdraw(images_per_class=0)
    with pytest.raises(InputError, match=r"Quickdraw is not in .* gsutil -m cp .*/quickdraw; or point --data\.root"):
        Quickdraw(root=str(tmp_path / "nothing")).prepare_data()
