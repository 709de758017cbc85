"""A class that was trained on measures nothing: who has it in training and in val or test is told so."""

import warnings

import pytest
import torch
from random_images import write_image_folder

from fewshot_pl.benchmarks import CIFARFS, FC100, MiniImageNet, MultiSource, Omniglot, TieredImageNet
from fewshot_pl.cli import train
from fewshot_pl.data.stored_datamodule import StoredDataModule
from fewshot_pl.errors import InputError

OVERLAPS = {  # classes that the first trains on and the second tests
    "CIFAR-FS, FC100": (CIFARFS, FC100, 11, "CIFAR-100/bee"),
    "FC100, CIFAR-FS": (FC100, CIFARFS, 11, "CIFAR-100/bed"),
    "miniImageNet, tieredImageNet": (MiniImageNet, TieredImageNet, 13, "ImageNet/n02105505"),
    "tieredImageNet, miniImageNet": (TieredImageNet, MiniImageNet, 5, "ImageNet/n02871525"),
    "Omniglot's two splits": (Omniglot, lambda: Omniglot(split="alphabets"), 236, "Omniglot/Angelic/character01"),
}


@pytest.mark.parametrize(("trained", "tested", "count", "one"), OVERLAPS.values(), ids=OVERLAPS)
def test_a_checkpoint_knows_the_classes_that_another_division_tests(trained, tested, count, one):
    seen = tested().trained_classes(trained().state_dict(), "test")
    assert len(seen) == count and one in seen
    assert trained().trained_classes(trained().state_dict(), "test") == []


@pytest.mark.parametrize(
    ("sources", "warned"),
    [(["CIFARFS", "FC100"], {"val", "test"}), (["FC100"], set()), (["CIFARFS", "CIFARFS"], set())],
)
def test_benchmarks_that_divide_the_same_images_differently_are_mixed_with_a_warning(sources, warned, monkeypatch):
    monkeypatch.setattr(StoredDataModule, "prepare_data", lambda self: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MultiSource(sources=sources).prepare_data()
    said = " ".join(str(warning.message) for warning in caught)
    assert {split for split in ("val", "test") if f"in train of CIFARFS and in {split} of FC100" in said} == warned
    assert bool(caught) == bool(warned)


def test_a_training_on_omniglot_is_not_resumed_with_its_other_split():
    with pytest.raises(InputError, match=r"class 'Omniglot/.*' \(and 235 more\) was trained on before"):
        Omniglot(split="alphabets").check_resumable(Omniglot().state_dict())


@pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
def test_a_platipus_knows_the_classes_of_the_maml_that_it_starts_from(tmp_path):
    write_image_folder(tmp_path / "images", num_classes=4)
    sizes = ["--data.num_ways=2", "--data.num_queries=1", "--data.image_size=16", "--data.batches_per_epoch=1"]
    few = ["--data.num_val_episodes=2", "--data.num_test_episodes=2", f"--data.cache_dir={tmp_path / 'cache'}"]
    places = ["--data=ImageFolder", f"--data.root={tmp_path / 'images'}", f"--runs={tmp_path / 'runs'}"]
    flags = [*places, *sizes, *few, "--pictures=none", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert train([*flags, "--model=MAML"]) == 0
    start = tmp_path / "runs/ImageFolder/MAML/0/checkpoints/best.ckpt"
    (tmp_path / "images/train/train0").rename(tmp_path / "images/test/train0")
    with pytest.warns(UserWarning, match="class 'train0' of test was trained on by .*best.ckpt"):
        assert train([*flags, "--model=PLATIPUS", f"--model.init_from={start}"]) == 0
    last = torch.load(tmp_path / "runs/ImageFolder/PLATIPUS/0/checkpoints/last.ckpt", weights_only=True)
    assert last["ImageFolder"]["train_classes"] == ["train0", "train1", "train2", "train3"]
