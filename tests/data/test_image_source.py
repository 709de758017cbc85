"""The images that a user-defined benchmark gives, and the cache that holds them."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot_pl import Glyphs, ImageDataModule, InputError, MultiSource
from fewshot_pl.data.image_source import cache_name, checked_classes

SHAPE = (1, 6, 8)
MINE = """
import numpy as np
from fewshot_pl import ImageDataModule

class MyImages(ImageDataModule):
    image_shape = (1, 6, 8)

    def class_images(self, split):
        for name in range(3):
            yield name, np.full((4, *self.image_shape), {value}, np.uint8)

    def source_fingerprint(self):
        return {{"num_images": np.int64(12)}}
"""


@pytest.fixture
def images_of(tmp_path, monkeypatch):
    """The test images of ``mine.MyImages`` in a project, all pixels of one value; all projects share a cache."""

    def images(project, value):
        file = tmp_path / project / "mine.py"
        file.parent.mkdir()
        file.write_text(MINE.format(value=value))
        spec = importlib.util.spec_from_file_location("mine", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        data = module.MyImages(num_ways=2, num_queries=1, cache_dir=tmp_path / "cache")
        data.prepare_data()
        data.setup("test")
        return data.stores["test"].images

    return images


def test_two_projects_with_a_benchmark_of_one_name_have_images_of_their_own(images_of):
    assert (images_of("one", 10) == 10).all() and (images_of("other", 200) == 200).all()


def test_another_image_shape_is_another_cache():
    class Mine(ImageDataModule): ...

    names = {cache_name(Mine, {}, shape) for shape in (SHAPE, (3, 6, 8), (np.int64(1), 6, 8), list(SHAPE))}
    assert len(names) == 2


def test_caches_of_ours_are_named_by_their_fingerprint_alone():
    fingerprint = Glyphs().source_fingerprint()
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    assert cache_name(Glyphs, fingerprint, (1, 28, 28)) == f"Glyphs-{digest[:12]}"


def test_numbers_of_numpy_and_paths_are_plain_enough_for_a_fingerprint():
    assert cache_name(Glyphs, {"n": np.int64(3), "root": Path("x")}, SHAPE) == cache_name(
        Glyphs, {"n": 3, "root": "x"}, SHAPE
    )
    with pytest.raises(InputError, match=r"source_fingerprint of Glyphs must give plain values.*ndarray"):
        cache_name(Glyphs, {"images": np.zeros(3)}, SHAPE)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((4, *SHAPE), np.float32), r"ndarray float32 \[4, 1, 6, 8\]"),
        (np.zeros((4, *SHAPE), np.uint16), r"ndarray uint16 \[4, 1, 6, 8\]"),
        (np.zeros((4, *SHAPE[1:]), np.uint8), r"ndarray uint8 \[4, 6, 8\]"),
        (np.zeros((4, 6, 8, 1), np.uint8), r"ndarray uint8 \[4, 6, 8, 1\]"),
        (torch.zeros((4, *SHAPE), dtype=torch.uint8), r"Tensor torch.uint8 \[4, 1, 6, 8\]"),
        ([np.zeros(SHAPE, np.uint8)] * 4, "list"),
    ],
)
def test_images_that_are_not_as_they_are_stated_are_refused(images, told):
    with pytest.raises(InputError, match=rf"of Glyphs must .* uint8 \[n, 1, 6, 8\].* class 'oak' as {told}"):
        list(checked_classes(Glyphs, [("oak", images)], SHAPE))


@pytest.mark.parametrize("data", [Glyphs(), MultiSource(sources=["Glyphs"])])
@pytest.mark.parametrize("asked", ["fixed_episodes", "class_names", "train_dataloader"])
def test_what_is_asked_before_setup_is_refused_with_the_cure(data, asked):
    split = [] if asked == "train_dataloader" else ["test"]
    with pytest.raises(InputError, match=r"no images of \w+ yet: call prepare_data\(\), and then setup\('fit'\)"):
        getattr(data, asked)(*split)
