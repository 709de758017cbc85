import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import itertools
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.benchmarks.class_folders import class_folders
from fewshot_pl.cli import evaluate, train
from fewshot_pl.errors import InputError

SPLITS = ("train", "val", "test")
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def fill(root, names, num_images=3, size=(20, 14)):
    """Write folders of images, each class in its own grey."""
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for image in range(num_images):
            Image.new("RGB", size, (index * 10, 100, image)).save(root / name / f"{image}.png")
    return root


def names(count, prefix="class"):
    return [f"{prefix}{index:02}" for index in range(count)]


@pytest.fixture
def folder(tmp_path):
    """A function that makes an ImageFolder for tiny tasks over ``tmp_path/root``."""

    def make(**settings):
        defaults = {
            "root": str(tmp_path / "root"),
            "cache_dir": str(tmp_path / "cache"),
            "num_ways": 2,
            "num_shots": 1,
            "num_queries": 2,
            "image_size": 16,
        }
        return ImageFolder(**(defaults | settings))

    return make


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def built(data, *stages):
    data.prepare_data()
    for stage in stages or ("fit", "test"):
        data.setup(stage)
    return data


def classes(data):
    return {split: store.class_names for split, store in data.stores.items()}


def test_split_folders_are_the_splits(folder, root):
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        fill(root / split, names(count, split))
    data = built(folder())
    assert classes(data) == {split: tuple(names(count, split)) for split, count in zip(SPLITS, (5, 2, 3), strict=True)}
    assert data.stores["train"].images.shape == (15, 3, 16, 16)
    np.testing.assert_array_equal(data.stores["val"].class_images(1)[:, :, 0, 0], [[10, 100, i] for i in range(3)])


def test_classes_are_divided_by_ratio_and_seed(folder, root):
    fill(root, names(20))
    first, again, other = (built(folder(**change)) for change in ({}, {"seed": 5}, {"split_seed": 1}))
    assert [len(classes(first)[split]) for split in SPLITS] == [13, 3, 4]
    assert sorted(itertools.chain(*classes(first).values())) == names(20)
    assert all(list(found) == sorted(found) for found in classes(first).values())
    assert classes(first) == classes(again)  # the seed of the episodes moves no class between train and test
    assert classes(first) != classes(other)
    assert [len(found) for found in classes(built(folder(split_ratio=(2, 1, 1)))).values()] == [10, 5, 5]


@pytest.mark.parametrize("seed", [-1, 0, 1])
def test_a_class_that_comes_or_goes_moves_hardly_another(root, seed):
    fill(root, names(40), num_images=0)
    before = division(root, seed)
    (root / "class07").rename(root / "class07 renamed")
    (root / "classes more").mkdir()
    after = division(root, seed)
    moved = [name for name in before.keys() & after.keys() if before[name] != after[name]]
    assert len(after) == 41 and len(moved) <= 3 * 2  # by a removal and two additions, one at each of two borders


def test_photographs_in_a_format_that_is_not_read_are_warned_of_when_packing(folder, root):
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        fill(root / split, names(count, split))
    for name in ("train/train00/3.HEIC", "train/train01/3.heif", "train/train03/deep.CR2"):
        (root / name).write_bytes(b"of a phone")
    with pytest.warns(UserWarning) as caught:
        built(folder())
    expected = f"Left out, as no image that can be read: '{root}/train/train00/3.HEIC' (and 2 more): convert to JPEG"
    assert [str(one.message) for one in caught if "Left out" in str(one.message)] == [expected]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(folder())  # packed already


@pytest.mark.filterwarnings("error:Left out")
@pytest.mark.parametrize(
    "name", ["2.HEIC", ".hidden.heic", "Thumbs.db", "desktop.ini", "notes.txt", "labels.csv", "README"]
)
def test_other_files_and_photographs_with_a_copy_are_ignored_without_a_word(name, folder, root):
    fill(root, names(20))
    (root / "class03" / name).write_bytes(b"of no image")
    built(folder())


def division(root, seed):
    """The split of each class."""
    folders = class_folders(root, (0.64, 0.16, 0.20), seed, root / "cache")
    return {folder.name: split for split, classes in folders.items() for folder in classes}


@pytest.fixture
def trained(root, tmp_path):
    """The flags and the last checkpoint of a finished training of one step."""
    for split in SPLITS:
        fill(root / split, names(3, split))
    sizes = {"num_ways": 2, "num_queries": 1, "image_size": 16, "batches_per_epoch": 1}
    settings = {**sizes, "num_val_episodes": 2, "num_test_episodes": 2, "cache_dir": tmp_path / "cache", "root": root}
    flags = [f"--data.{name}={value}" for name, value in settings.items()]
    flags += ["--data=ImageFolder", f"--runs={tmp_path / 'runs'}", "--pictures=none", *CPU]
    assert train([*flags, "--trainer.max_epochs=1"]) == 0
    return flags, next((tmp_path / "runs").rglob("last.ckpt"))


@pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
def test_a_training_in_the_folder_of_its_classes_packs_once(root, monkeypatch, capsys):
    fill(root, names(9))
    monkeypatch.chdir(root)
    sizes = {"num_ways": 2, "num_queries": 1, "image_size": 16, "batches_per_epoch": 1, "split_ratio": "[1,1,1]"}
    settings = {**sizes, "num_val_episodes": 2, "num_test_episodes": 2, "cache_dir": "cache", "root": "."}
    flags = [f"--data.{name}={value}" for name, value in settings.items()]
    for _ in range(2):
        assert train(["--data=ImageFolder", *flags, "--pictures=embedding", "--trainer.max_epochs=1", *CPU]) == 0
    assert len(list((root / "cache").glob("ImageFolder-*"))) == 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("several", [False, True])
def test_an_evaluation_on_trained_classes_warns(trained, root, several):
    data = [f"--data.root={root}"]
    if several:
        own = {"ImageFolder": {"root": str(root), "image_size": 16}}
        data = ["--data=MultiSource", f"--data.sources={json.dumps([own])}"]
    with warnings.catch_warnings(record=True) as before:
        assert evaluate([f"--ckpt_path={trained[1]}", *data, *CPU]) == 0
    assert not [warning for warning in before if "trained on" in str(warning.message)]
    (root / "train" / "train01").rename(root / "test" / "train01")
    with pytest.warns(UserWarning, match=r"class 'train01' of test was trained on by .*last.ckpt"):
        assert evaluate([f"--ckpt_path={trained[1]}", *data, *CPU]) == 0


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_that_does_not_know_its_classes_warns(trained):
    contents = torch.load(trained[1], weights_only=True)
    state = contents.pop("ImageFolder")
    assert state.keys() == {"train_classes", "val_images"} and state["train_classes"] == names(3, "train")
    torch.save(contents, trained[1])
    with pytest.warns(UserWarning, match=r"last.ckpt does not say which classes it was trained on.*: test may hold"):
        assert evaluate([f"--ckpt_path={trained[1]}", *CPU]) == 0


@pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
def test_a_training_is_not_resumed_where_its_classes_are_tested(trained, root, capsys):
    flags, last = trained
    resumed = [*flags, "--trainer.max_epochs=2", f"--ckpt_path={last}"]
    (root / "train" / "train01").rename(root / "test" / "train01")
    config = last.parents[1] / "config.yaml"
    written = config.read_text()
    assert train([*resumed, "--trainer.log_every_n_steps=7"]) == 2
    assert config.read_text() == written
    assert "class 'train01' was trained on before and is in val or test now" in capsys.readouterr().err
    (root / "test" / "train01").rename(root / "train" / "train01")
    assert train(resumed) == 0


@pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
def test_a_checkpoint_still_knows_a_class_that_was_gone_when_it_was_resumed(trained, root, tmp_path, capsys):
    flags, last = trained
    fill(root / "train", names(2, "more"))
    (root / "train" / "train01").rename(tmp_path / "train01")
    assert train([*flags, "--trainer.max_epochs=2", f"--ckpt_path={last}"]) == 0
    (tmp_path / "train01").rename(root / "test" / "train01")
    assert train([*flags, "--trainer.max_epochs=3", f"--ckpt_path={last}"]) == 2
    assert "class 'train01' was trained on before and is in val or test now" in capsys.readouterr().err


def test_validation_takes_its_share_of_the_training_classes(folder, root):
    fill(root / "train", names(10))
    fill(root / "test", names(3, "new"))
    found = classes(built(folder()))
    assert [len(found[split]) for split in SPLITS] == [8, 2, 3]
    assert sorted(found["train"] + found["val"]) == names(10)
    assert found["test"] == tuple(names(3, "new"))


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_validation_folders_of_other_names_are_read(name, folder, root):
    for split, part in (("train", "train"), (name, "val"), ("test", "test")):
        fill(root / split, names(3, part))
    assert classes(built(folder())) == {split: tuple(names(3, split)) for split in SPLITS}
    fill(root / "val", ["another"])
    with pytest.raises(InputError, match=f"root has val/ and {name}/, which mean the same: put their classes into one"):
        built(folder())


@pytest.mark.filterwarnings("default")
def test_folders_beside_those_of_the_splits_are_named(folder, root):
    for split in SPLITS:
        fill(root / split, names(3, split))
    fill(root, ["extra", "more"])
    with pytest.warns(UserWarning, match=r"folder 'extra' \(and 1 more\) of .*root is left out: classes are read from"):
        found = classes(built(folder()))
    assert found == {split: tuple(names(3, split)) for split in SPLITS}


def test_evaluation_needs_only_test_classes(folder, root):
    fill(root / "test", names(3))
    data = built(folder(), "test")
    assert classes(data) == {"test": tuple(names(3))}
    with pytest.raises(InputError, match="gives 0 train, 0 val and 3 test classes, and train needs"):
        data.setup("fit")


def test_all_classes_can_be_test_classes(folder, root):
    fill(root, names(4))
    assert classes(built(folder(split_ratio=(0, 0, 1)), "test")) == {"test": tuple(names(4))}


def test_an_episode_is_normalised_and_augmented(folder, root):
    fill(root, names(20))
    data = built(folder(augment=False))
    episode = data.episode(next(iter(data.train_dataloader())))
    assert episode.query_x.shape == (1, 4, 3, 16, 16)
    green = (100 / 255 - 0.456) / 0.224
    assert episode.query_x[0, :, 1].sub(green).abs().max() < 1e-5
    augmented = built(folder())
    episode = augmented.episode(next(iter(augmented.train_dataloader())))
    assert episode.query_x[0, :, 1].sub(green).abs().max() > 0.01


def test_grey_images_have_one_channel(folder, root):
    fill(root, names(20))
    data = built(folder(channels=1, image_size=12))
    assert data.image_shape == (1, 12, 12)
    assert data.stores["train"].images.shape[1:] == (1, 12, 12)
    episode = data.episode(next(iter(data.train_dataloader())))
    assert episode.support_x.shape == (1, 2, 1, 12, 12)
    assert episode.support_x.abs().max() <= 1


def test_mixed_sizes_formats_and_other_files(folder, root):
    fill(root, names(6))
    Image.new("L", (50, 40), 200).save(root / "class00" / "a photo.JPG")
    Image.new("P", (9, 40)).save(root / "class00" / "b.gif")
    (root / "class00" / "deeper").mkdir()
    Image.new("CMYK", (50, 40)).save(root / "class00" / "deeper" / "c.tif")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._0.png", "labels.csv"):
        (root / "class00" / name).write_text("no image")
        (root / name).write_text("no image")
    (root / ".git").mkdir()
    data = built(folder(split_ratio=(0, 0, 1)), "test")
    assert np.diff(data.stores["test"].class_starts).tolist() == [6, 3, 3, 3, 3, 3]


def test_a_class_called_train_is_a_class(folder, root):
    fill(root, ["boat", "car", "plane", "train"])
    assert classes(built(folder(split_ratio=(0, 0, 1)), "test"))["test"] == ("boat", "car", "plane", "train")


def test_what_programs_leave_is_no_class_and_any_other_name_is(folder, root):
    fill(root, ["__cat", "_dog", "cat", "dog", "__MACOSX", "__pycache__", ".git"])
    data = built(folder(split_ratio=(0.0, 0.0, 1.0)), "test")
    assert classes(data)["test"] == ("__cat", "_dog", "cat", "dog")


def test_changes_of_the_images_or_their_division_rebuild_the_cache(folder, root):
    fill(root, names(20))
    fingerprint = folder().source_fingerprint()
    assert folder(seed=3, num_ways=3).source_fingerprint() == fingerprint
    for change in ({"image_size": 17}, {"channels": 1}, {"split_seed": 1}, {"split_ratio": (1, 1, 1)}):
        assert folder(**change).source_fingerprint() != fingerprint
    before = built(folder()).stores["train"].images.copy()
    for path in root.glob("*/0.png"):
        Image.new("RGB", (20, 14), "white").save(path)
    assert (built(folder()).stores["train"].images != before).any()


@pytest.mark.parametrize("divided", [True, False])
def test_what_is_none_of_its_images_leaves_the_cache_as_it_is(folder, root, divided):
    for split in SPLITS:
        fill(root / split if divided else root, names(3, split))
    fingerprint = folder(split_ratio=(1, 1, 1)).source_fingerprint()
    run = root / "runs" / "ImageFolder" / "ProtoNet" / "0"
    run.mkdir(parents=True)
    (run / "results.json").write_text("{}")
    Image.new("RGB", (4, 4)).save(run / "sprite.png")
    (root / "deep" / "cache").mkdir(parents=True)
    (root / "notes.txt").write_text("of all")
    (next(root.rglob("0.png")).parent / "notes.txt").write_text("of a class")
    again = folder(split_ratio=(1, 1, 1), cache_dir=str(root / "deep" / "cache"))
    assert again.source_fingerprint() == fingerprint
    expected = sorted(name for split in SPLITS for name in names(3, split))
    assert sorted(itertools.chain(*classes(built(again)).values())) == expected
    assert folder(split_ratio=(1, 1, 1), cache_dir=str(root / "deep" / "cache")).source_fingerprint() == fingerprint


@pytest.mark.filterwarnings("default")
def test_classes_that_are_both_trained_on_and_tested_are_warned_of(folder, root):
    for split in SPLITS:
        fill(root / split, names(3))
    with pytest.warns(UserWarning, match=r"class 'class00' \(and 2 more\) is in train/ and in val/ or test/"):
        built(folder())


def no_root(root):
    pass


def an_empty_root(root):
    root.mkdir()


def only_loose_images(root):
    root.mkdir()
    Image.new("RGB", (4, 4)).save(root / "a.png")


def an_empty_class(root):
    fill(root, names(20))
    (root / "class07x").mkdir()
    (root / "class07x" / "notes.txt").write_text("nothing here")


def only_a_phones_photographs(root):
    fill(root, names(20))
    (root / "class07x").mkdir()
    (root / "class07x" / "IMG_1.HEIC").write_bytes(b"of a phone")


def too_few_classes(root):
    fill(root, names(4))


def no_test_folder(root):
    fill(root / "train", names(10))


def a_small_class(root):
    fill(root / "train", names(4))
    fill(root / "train", ["small"], num_images=2)
    fill(root / "val", names(2, "val"))
    fill(root / "test", names(2, "test"))


def a_broken_image(root):
    fill(root, names(20))
    whole = (root / "class03" / "1.png").read_bytes()
    (root / "class03" / "1.png").write_bytes(whole[: len(whole) // 2])


def a_page_saved_as_an_image(root):
    fill(root, names(20))
    (root / "class03" / "2.jpg").write_text("<html>404 Not Found</html>")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_root, r"there is no folder .*root: point --data\.root at"),
        (an_empty_root, "root holds no folders: make one folder per class"),
        (only_loose_images, "root holds no folders: make one folder per class"),
        (an_empty_class, "class folder .*class07x holds no image: add images or remove the folder"),
        (only_a_phones_photographs, r"class07x holds no image that can be read, but 'IMG_1\.HEIC': convert to JPEG"),
        (
            too_few_classes,
            "gives 3 train, 0 val and 1 test classes, and val needs at least 1.*lower num_ways .*, or change",
        ),
        (no_test_folder, "gives 8 train, 2 val and 0 test classes, and test needs at least 1.*make train/, val/ and"),
        (a_small_class, "class 'small' has 2 images and an episode needs 1 shots . 2 queries: add images, or lower"),
        (a_broken_image, r"image .*class03/1\.png cannot be decoded .*replace it or remove it"),
        (a_page_saved_as_an_image, r"image .*class03/2\.jpg cannot be decoded .*replace it or remove it"),
    ],
)
def test_bad_input_is_named_with_its_cure(make, message, folder, root):
    make(root)
    with pytest.raises(InputError, match=message) as caught:
        built(folder())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", [(0.0, 0.0, 0.0), (-1.0, 1.0, 1.0)])
def test_a_ratio_that_is_none_is_refused(ratio, folder, root):
    fill(root, names(4))
    with pytest.raises(InputError, match="split_ratio must be three shares"):
        folder(split_ratio=ratio).prepare_data()


def test_fewer_classes_than_ways_in_a_ratio_split(folder, root):
    fill(root, names(10))
    with pytest.raises(InputError, match="6 train, 2 val and 2 test classes, and val needs at least 5: add classes"):
        built(folder(num_ways=5))
