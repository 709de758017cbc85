import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import pytest
from tiny_archives import cut_splits, write_tiered

from fewshot_pl.benchmarks import TieredImageNet
from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.data.datamodule import SPLITS
from fewshot_pl.errors import InputError


def test_the_authors_pickles_are_never_opened(tmp_path, monkeypatch):
    cut_splits(monkeypatch)
    (tmp_path / "tiered-imagenet").mkdir()
    for name in ("train_images_png.pkl", "train_labels.pkl"):
        (tmp_path / "tiered-imagenet" / name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    data = TieredImageNet(root=str(tmp_path))
    with (
        pytest.warns(UserWarning, match="has 0 images"),
        pytest.raises(InputError, match=r"has no images .*not as pickles"),
    ):
        list(data.class_images("val"))


def test_a_class_goes_to_its_published_split_wherever_it_lies(tmp_path, monkeypatch):
    cut = cut_splits(monkeypatch)
    write_tiered(tmp_path, cut)  # all below train/
    data = TieredImageNet(root=str(tmp_path), image_size=8)
    with pytest.warns(UserWarning, match="has 18 images and not 779165"):
        names = {split: [name for name, _ in data.class_images(split)] for split in SPLITS}
    assert names == cut("tiered_imagenet")


def test_classes_that_mini_imagenet_trains_on_are_among_those_to_test_on():
    """So a model trained on one is no fair start for the other."""
    tiered, mini = published_split("tiered_imagenet"), published_split("mini_imagenet")
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for split in SPLITS for name in tiered[split])
    assert set(mini["train"]) & set(tiered["test"])
