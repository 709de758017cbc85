import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import itertools
import json
import pickle
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fewshot_pl.benchmarks import CIFARFS, FC100
from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")
CLASSES = sorted(itertools.chain(*published_split("cifar_fs").values()))
SIZES = {CIFARFS: {"train": 64, "val": 16, "test": 20}, FC100: {"train": 60, "val": 20, "test": 20}}
FILES = [("train", "b.png"), ("train", "d.png"), ("test", "a.png"), ("test", "c.png")]  # of every class


def an_image(class_index, file_index):
    """Noise with the class in the top left red value and the file in the green one."""
    pixels = np.random.default_rng(class_index * 10 + file_index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels[0, 0, :2] = class_index, file_index
    return pixels


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    root = tmp_path_factory.mktemp("extracted")
    for (index, name), (file, (part, filename)) in itertools.product(enumerate(CLASSES), enumerate(FILES)):
        path = root / "cifar100" / part / name / f"{name}_{filename}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(an_image(index, file)).save(path)
    return root


@pytest.fixture(scope="module")
def zipped(extracted, tmp_path_factory):
    root = tmp_path_factory.mktemp("zipped")
    shutil.make_archive(str(root / "cifar100"), "zip", extracted, "cifar100")
    return root


@pytest.fixture
def server(monkeypatch):
    """A CIFAR100 whose download writes the same images in the original archive's layout."""

    class Server(datasets.CIFAR100):
        downloads = 0

        def _check_integrity(self):
            return all(self._path(name).is_file() for name in ("train", "test", "meta"))

        def _load_meta(self):
            pass

        def _path(self, name):
            return Path(self.root) / self.base_folder / name

        def download(self):
            if self._check_integrity():
                return
            Server.downloads += 1
            self._path("meta").parent.mkdir(parents=True)
            self._path("meta").write_bytes(pickle.dumps({"fine_label_names": CLASSES}))
            for part in ("train", "test"):
                rows = [row for row in itertools.product(range(100), range(4)) if FILES[row[1]][0] == part]
                np.random.default_rng(0).shuffle(rows)
                content = {
                    "data": np.stack([an_image(*row).transpose(2, 0, 1).reshape(-1) for row in rows]),
                    "fine_labels": [int(label) for label, _ in rows],
                    "filenames": [f"{CLASSES[label]}_{FILES[file][1]}" for label, file in rows],
                }
                self._path(part).write_bytes(pickle.dumps(content))

    monkeypatch.setattr(datasets, "CIFAR100", Server)
    return Server


def images_of(data, split):
    names, images = zip(*data.class_images(split), strict=True)
    return list(names), np.stack(images)


@pytest.mark.parametrize("benchmark", SIZES)
def test_the_split_is_the_published_one(benchmark):
    data = benchmark()
    names = {split: data.published_classes(split) for split in ("train", "val", "test")}
    assert {split: len(classes) for split, classes in names.items()} == SIZES[benchmark]
    assert sorted(itertools.chain(*names.values())) == CLASSES


def test_fc100_keeps_superclasses_apart(shared_data):
    superclasses = json.loads((shared_data / "splits" / "cifar100_superclasses.json").read_text())
    superclass_of = {name: superclass for superclass, names in superclasses.items() for name in names}
    splits = [{superclass_of[name] for name in FC100().published_classes(split)} for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [12, 4, 4]
    assert len(set().union(*splits)) == 20


@pytest.mark.parametrize("benchmark", SIZES)
def test_train_and_test_are_pooled_and_sorted_by_file_name(benchmark, zipped):
    names, images = images_of(benchmark(root=str(zipped)), "val")
    assert names == sorted(published_split(benchmark.split_name)["val"])
    assert images.shape == (len(names), 4, 3, 32, 32)
    for name, of_class in zip(names, images, strict=True):
        for position, file in enumerate([2, 0, 3, 1]):  # a.png, b.png, c.png, d.png
            np.testing.assert_array_equal(of_class[position].transpose(1, 2, 0), an_image(CLASSES.index(name), file))


@pytest.mark.parametrize("source", ["extracted", "the folder itself", "downloaded"])
def test_every_source_gives_the_same_images(source, extracted, zipped, server, tmp_path):
    root = {"extracted": extracted, "the folder itself": extracted / "cifar100", "downloaded": tmp_path}[source]
    data = CIFARFS(root=str(root))
    for split in ("train", "val", "test"):
        names, images = images_of(data, split)
        expected_names, expected_images = images_of(CIFARFS(root=str(zipped)), split)
        assert names == expected_names
        np.testing.assert_array_equal(images, expected_images)
    assert server.downloads == (source == "downloaded")


def published_layout(split):
    """Where each class lies in CIFAR-FS as its authors pack it."""
    return {name: f"data/{name}" for names in split.values() for name in names}


def divided_layout(split, prefix=""):
    """Where each class lies in a copy that is divided already, here with a validation class in train."""
    part_of = {name: part for part, names in split.items() for name in names} | {split["val"][0]: "train"}
    return {name: f"{prefix}{part}/{name}" for name, part in part_of.items()}


def arranged(extracted, folder, place_of):
    """The images in another layout, all of a class in one folder."""
    for name, place in place_of.items():
        for part in ("train", "test"):
            shutil.copytree(extracted / "cifar100" / part / name, folder / place, dirs_exist_ok=True)
    (folder / "splits" / "bertinetto").mkdir(parents=True)
    (folder / "splits" / "bertinetto" / "val.txt").write_text("apple\n")
    return folder


@pytest.mark.parametrize("form", ["above", "the folder itself", "zip"])
@pytest.mark.parametrize(
    ("folder", "layout"),
    [
        ("cifar100", published_layout),
        ("cifar-fs", divided_layout),
        ("CIFAR-FS", published_layout),
        ("cifar_fs", lambda split: divided_layout(split, "meta-")),
    ],
)
def test_cifar_fs_is_read_as_published_and_as_divided_by_others(folder, layout, form, extracted, zipped, tmp_path):
    place = arranged(extracted, tmp_path / folder, layout(published_split("cifar_fs")))
    if form == "zip":
        shutil.make_archive(str(tmp_path / folder), "zip", tmp_path, folder)
        shutil.rmtree(place)
    for benchmark in (CIFARFS, FC100):
        names, images = images_of(benchmark(root=str(place if form == "the folder itself" else tmp_path)), "val")
        expected_names, expected_images = images_of(benchmark(root=str(zipped)), "val")
        assert names == expected_names
        np.testing.assert_array_equal(images, expected_images)


@pytest.mark.parametrize("named", ["zip", "folder"])
def test_a_users_folders_beside_it_are_not_read(named, extracted, zipped, server, tmp_path):
    if named == "zip":
        shutil.copy(zipped / "cifar100.zip", tmp_path)
    else:
        shutil.copytree(extracted / "cifar100", tmp_path / "cifar100")
    users_own_fruit(tmp_path)
    names, images = images_of(CIFARFS(root=str(tmp_path)), "train")
    expected_names, expected_images = images_of(CIFARFS(root=str(zipped)), "train")
    assert names == expected_names
    np.testing.assert_array_equal(images, expected_images)


def test_a_users_folders_do_not_stand_in_for_it(zipped, server, tmp_path):
    users_own_fruit(tmp_path)
    assert len(images_of(CIFARFS(root=str(tmp_path)), "train")[0]) == 64
    assert server.downloads == 1


def test_folders_of_cifar_100_in_the_root_are_read_without_a_users_own_beside_them(extracted, tmp_path):
    shutil.copytree(extracted / "cifar100", tmp_path, dirs_exist_ok=True)
    users_own_fruit(tmp_path / "fruit")
    assert images_of(CIFARFS(root=str(tmp_path)), "train")[1].shape[:2] == (64, 4)


def users_own_fruit(root):
    """Photographs in train/ and test/, of some classes that CIFAR-100 has too."""
    for part, name in itertools.product(("train", "test"), ("apple", "orange", "banana")):
        (root / part / name).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(root / part / name / "1.png")


def test_a_cache_survives_its_download(server, tmp_path):
    def prepared():
        data = CIFARFS(root=str(tmp_path / "root"), cache_dir=str(tmp_path / "cache"), num_queries=3)
        data.prepare_data()
        data.setup("fit")
        return data

    prepared()
    shutil.rmtree(tmp_path / "root")
    assert prepared().stores["train"].num_classes == 64
    assert server.downloads == 1


def test_episodes_are_augmented_in_training_and_normalised(zipped, tmp_path):
    def episode(split, **settings):
        data = CIFARFS(root=str(zipped), cache_dir=str(tmp_path), num_queries=3, **settings)
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader() if split == "train" else data.val_dataloader()
        pixels = data.episode(next(iter(loader))).query_x
        return pixels * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)

    marks = (episode("train", augment=False)[..., :2, 0, 0] * 255).round()
    assert (marks[..., 0] < 100).all() and (marks[..., 1] < 4).all()
    augmented = episode("train")
    assert augmented.min() > -1e-5 and augmented.max() < 1 + 1e-5
    assert not torch.allclose(augmented, episode("train", augment=False), atol=0.01)
    assert torch.equal(episode("val"), episode("val", augment=False))


def test_the_real_archive_holds_every_class_600_times(shared_data):
    counts = Counter(path.split("/")[2] for path in zipfile.ZipFile(shared_data / "cifar100.zip").namelist())
    assert counts == dict.fromkeys(CLASSES, 600)


@pytest.mark.filterwarnings("error")
def test_mean_and_deviation_are_near_those_of_real_images(shared_data):
    data = CIFARFS(root=str(shared_data))
    images = np.concatenate([images for _, images in itertools.islice(data.class_images("train"), 2, 8)]) / 255
    assert images.shape == (3600, 3, 32, 32)
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)), data.mean, atol=0.1)
    np.testing.assert_allclose(images.std(axis=(0, 2, 3)), data.std, atol=0.05)


def test_without_network_it_says_what_to_get_and_where_to_put_it(tmp_path, monkeypatch):
    class Offline(datasets.CIFAR100):
        def download(self):
            raise URLError("no network")

    monkeypatch.setattr(datasets, "CIFAR100", Offline)
    data = CIFARFS(root=str(tmp_path / "nothing"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"download failed .*get cifar-100-python\.tar\.gz from https://\S+ .*nothing"):
        data.prepare_data()


def test_a_broken_download_is_never_unpickled(server, tmp_path, monkeypatch):
    CIFARFS(root=str(tmp_path)).class_images("val")  # lazily: nothing is read yet
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    def corrupted(self):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(server, "download", corrupted)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match="corrupted"):
        images_of(CIFARFS(root=str(tmp_path)), "val")


@pytest.fixture
def copied(extracted, tmp_path):
    shutil.copytree(extracted / "cifar100", tmp_path / "cifar100")
    return tmp_path


def test_bad_input_is_named_with_its_cure(copied):
    val = CIFARFS(root=str(copied)).published_classes("val")
    image = copied / "cifar100" / "train" / val[0] / f"{val[0]}_b.png"
    whole = image.read_bytes()

    image.write_bytes(whole[:200])
    with pytest.raises(InputError, match=rf"train/{val[0]}/{val[0]}_b\.png cannot be decoded .*replace"):
        images_of(CIFARFS(root=str(copied)), "val")

    Image.new("RGB", (84, 84)).save(image)
    with pytest.raises(InputError, match=rf"{val[0]}_b\.png is 84x84 .*32x32.*original"):
        images_of(CIFARFS(root=str(copied)), "val")

    image.write_bytes(whole)
    for part in ("train", "test"):
        shutil.rmtree(copied / "cifar100" / part / val[3])
    with pytest.raises(InputError, match=rf"class '{val[3]}' has no images .*cifar100"):
        images_of(CIFARFS(root=str(copied)), "val")


@pytest.mark.filterwarnings("default")
def test_an_incomplete_copy_is_warned_of(zipped):
    with pytest.warns(UserWarning, match=r"'\w+' has 4 images in .*cifar100\.zip and not 600"):
        images_of(CIFARFS(root=str(zipped)), "val")


def test_too_few_images_are_said_with_the_class(zipped, tmp_path):
    data = CIFARFS(root=str(zipped), cache_dir=str(tmp_path))
    data.prepare_data()
    with pytest.raises(InputError, match=r"'apple' has 4 images and an episode needs 1 shots \+ 15 queries"):
        data.setup("fit")


def test_a_changed_source_or_split_has_another_fingerprint(copied, zipped):
    def fingerprint(benchmark, root):
        return json.dumps(benchmark(root=str(root)).source_fingerprint())

    before = fingerprint(CIFARFS, copied)
    assert before == fingerprint(CIFARFS, copied)
    assert len({before, fingerprint(FC100, copied), fingerprint(CIFARFS, zipped)}) == 3
    next((copied / "cifar100" / "train").glob("*/*.png")).unlink()
    assert fingerprint(CIFARFS, copied) != before
