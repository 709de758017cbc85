import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import tarfile

import numpy as np
import pytest
from tiny_archives import cut_splits, write_fungi

from fewshot_pl.benchmarks import Fungi

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return write_fungi(tmp_path / "written", cut_splits(monkeypatch))


def images_of(root, **settings):
    data = Fungi(root=str(root), image_size=8, **settings)
    return dict(data.class_images("train"))


def test_the_two_published_archives_are_read_together(folder, tmp_path):
    parts = {"fungi_train_val": ["images"], "train_val_annotations": ["train.json", "val.json"]}
    for archive, names in parts.items():
        with tarfile.open(tmp_path / f"{archive}.tgz", "w:gz") as file:
            for name in names:
                file.add(folder / name, name)
    expected = images_of(folder.parent)
    seen = images_of(tmp_path)
    assert seen.keys() == expected.keys() and len(seen) == 2
    for name, images in expected.items():
        np.testing.assert_array_equal(seen[name], images)


def test_the_annotations_may_be_extracted_beside_the_archive(folder, tmp_path):
    with tarfile.open(tmp_path / "fungi_train_val.tgz", "w:gz") as file:
        file.add(folder / "images", "images")
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert {name: len(images) for name, images in images_of(tmp_path).items()} == dict.fromkeys(images_of(folder), 3)


def test_small_species_are_left_out_where_asked_for(folder):
    first, second = images_of(folder)
    next((folder / "images" / f"{int(first[:4])}_Russula vinosa").iterdir()).unlink()
    assert {name: len(images) for name, images in images_of(folder).items()} == {first: 2, second: 3}
    assert list(images_of(folder, min_images=3)) == [second]
    plain, picked = (Fungi(root=str(folder), min_images=n).source_fingerprint() for n in (0, 3))
    assert plain != picked


def test_its_default_task_fits_the_smallest_species():
    size = Fungi().eval_size
    assert size.num_images == 6  # the fewest in Meta-Dataset's counts
