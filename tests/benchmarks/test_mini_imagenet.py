import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import itertools
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_archives import packed

from fewshot_pl.benchmarks import MiniImageNet
from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.data.datamodule import SPLITS
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")
SPLIT = published_split("mini_imagenet")
CLASSES = sorted(itertools.chain(*SPLIT.values()))
NUMBERS = ["00000007", "00000012", "00001299"]  # of the images of every class


def write_images(folder_of):
    """Write an 84x84 JPEG of noise for each class and number, as ``folder_of(wnid)/<wnid><number>.jpg``."""
    for (index, wnid), number in itertools.product(enumerate(CLASSES), NUMBERS):
        pixels = np.random.default_rng([index, int(number)]).integers(0, 256, (84, 84, 3), dtype=np.uint8)
        folder_of(wnid).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder_of(wnid) / f"{wnid}{number}.jpg")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    root = tmp_path_factory.mktemp("extracted")
    write_images(lambda wnid: root / "mini_imagenet" / wnid)
    return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Ravi and Larochelle's layout, with a file of theirs that is no image."""
    root = tmp_path_factory.mktemp("flat")
    write_images(lambda wnid: root / "images")
    (root / "images" / "train.csv").write_text("filename,label\n")
    return root


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Folders train, val and test, with one class in another folder than its split's."""
    root = tmp_path_factory.mktemp("divided")
    part_of = {wnid: part for part in SPLITS for wnid in SPLIT[part]} | {SPLIT["val"][0]: "train"}
    write_images(lambda wnid: root / "miniImagenet" / part_of[wnid] / wnid)
    return root


@pytest.fixture(scope="module")
def pickled(extracted, tmp_path_factory):
    """The pickles of Ren et al., with one class in another file than its split's."""
    root = tmp_path_factory.mktemp("pickled")
    write_pickles(extracted, root / "mini_imagenet", "mini-imagenet-cache-{}.pkl", of_cache)
    return root


@pytest.fixture(scope="module")
def category_split(extracted, tmp_path_factory):
    """The pickles of Gidaris and Komodakis, with one of more images that are not to be read."""
    root = tmp_path_factory.mktemp("category_split")
    name = "miniImageNet_category_split_{}.pickle"
    write_pickles(extracted, root / "miniImageNet", name, of_category_split, train="train_phase_train")
    shutil.copy(root / "miniImageNet" / name.format("val"), root / "miniImageNet" / name.format("train_phase_val"))
    return root


def of_cache(images, classes):
    return {
        "image_data": images,
        "class_dict": {wnid: [row for row, other in enumerate(classes) if other == wnid] for wnid in set(classes)},
    }


def of_category_split(images, classes):
    labels = {wnid: 64 + number for number, wnid in enumerate(sorted(set(classes)))}
    return {"data": images, "labels": [labels[wnid] for wnid in classes], "catname2label": labels}


def write_pickles(extracted, folder, name, content, **part_names):
    """Write the images into one pickle for each split, the classes in turn."""
    folder.mkdir(exist_ok=True)
    part_of = {wnid: part for part in SPLITS for wnid in SPLIT[part]} | {SPLIT["val"][0]: "train"}
    for protocol, part in enumerate(SPLITS, 2):
        classes = [wnid for _, wnid in itertools.product(NUMBERS, CLASSES) if part_of[wnid] == part]
        numbers = [number for number, wnid in itertools.product(NUMBERS, CLASSES) if part_of[wnid] == part]
        files = [
            extracted / "mini_imagenet" / wnid / f"{wnid}{n}.jpg" for n, wnid in zip(numbers, classes, strict=True)
        ]
        images = np.stack([np.asarray(Image.open(file)) for file in files])
        written = pickle.dumps(content(images, classes), protocol=protocol)
        (folder / name.format(part_names.get(part, part))).write_bytes(written)


def pickles_in_root(pickled, tiered_class, root):
    """The pickles in ``root`` itself, beside another benchmark with one of their classes."""
    shutil.copytree(pickled / "mini_imagenet", root, dirs_exist_ok=True)
    (root / "tiered_imagenet" / "train" / tiered_class).mkdir(parents=True)
    Image.new("RGB", (84, 84)).save(root / "tiered_imagenet" / "train" / tiered_class / "1.jpg")
    return root


def zipped(source, name, root):
    shutil.make_archive(str(root / name), "zip", source, name)
    return root


def renamed(divided, root):
    shutil.copytree(divided / "miniImagenet", root / "miniimagenet")
    return root


def images_of(root, split, **settings):
    names, images = zip(*MiniImageNet(root=str(root), **settings).class_images(split), strict=True)
    return list(names), np.stack(images)


def test_classes_and_images_are_sorted_and_whole(extracted):
    for split, num_classes in {"train": 64, "val": 16, "test": 20}.items():
        names, images = images_of(extracted, split)
        assert names == sorted(SPLIT[split]) == MiniImageNet().published_classes(split)
        assert images.shape == (num_classes, 3, 3, 84, 84) and images.dtype == np.uint8
        for name, of_class in zip(names, images, strict=True):
            for number, pixels in zip(NUMBERS, of_class, strict=True):
                file = extracted / "mini_imagenet" / name / f"{name}{number}.jpg"
                np.testing.assert_array_equal(pixels, np.asarray(Image.open(file)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "source",
    [
        "the folder itself",
        "of OpenAI's script",
        "divided",
        "the divided folder itself",
        "flat",
        "zip",
        "divided zip",
        "flat zip",
        "pickles",
        "the folder of pickles itself",
        "pickles in the root",
        "pickles zip",
        "pickles tgz",
        "pickles of categories",
    ],
)
def test_every_layout_gives_the_same_images(source, extracted, divided, flat, pickled, category_split, tmp_path):
    root = {
        "the folder itself": lambda: extracted / "mini_imagenet",
        "of OpenAI's script": lambda: renamed(divided, tmp_path),
        "divided": lambda: divided,
        "the divided folder itself": lambda: divided / "miniImagenet",
        "flat": lambda: flat,
        "zip": lambda: zipped(extracted, "mini_imagenet", tmp_path),
        "divided zip": lambda: zipped(divided, "miniImagenet", tmp_path),
        "flat zip": lambda: zipped(flat, "images", tmp_path),
        "pickles": lambda: pickled,
        "the folder of pickles itself": lambda: pickled / "mini_imagenet",
        "pickles in the root": lambda: pickles_in_root(pickled, CLASSES[0], tmp_path),
        "pickles zip": lambda: zipped(pickled, "mini_imagenet", tmp_path),
        "pickles tgz": lambda: packed(pickled / "mini_imagenet", tmp_path / "mini-imagenet.tgz").parent,
        "pickles of categories": lambda: category_split,
    }[source]()
    for split in SPLITS:
        names, images = images_of(root, split)
        expected_names, expected_images = images_of(extracted, split)
        assert names == expected_names
        np.testing.assert_array_equal(images, expected_images)


@pytest.fixture
def one_image(tmp_path):
    """A function that writes an image as the only one of the first validation class, and reads it back, [3, 84, 84]."""

    def read(image, extension="jpg"):
        folder = tmp_path / "mini_imagenet" / sorted(SPLIT["val"])[0]
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        image.save(folder / f"only.{extension}", quality=100)
        return next(iter(MiniImageNet(root=str(tmp_path)).class_images("val")))[1][0]

    return read


@pytest.mark.parametrize("size", [(252, 84), (500, 333), (60, 120)])
def test_an_image_is_brought_to_size_as_a_whole(size, one_image):
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for channel, part in enumerate(np.array_split(np.arange(size[0]), 3)):  # red, green and blue thirds
        pixels[:, part, channel] = 255
    seen = one_image(Image.fromarray(pixels), "png")
    assert seen.shape == (3, 84, 84)
    for channel in range(3):
        np.testing.assert_array_less(250, seen[channel, :, 28 * channel + 3 : 28 * channel + 25])
        assert abs(seen[channel].mean() - 85) < 2


def test_grey_and_cmyk_images_become_rgb(one_image):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (84, 84), dtype=np.uint8))
    seen = one_image(grey, "png")
    np.testing.assert_array_equal(seen, np.broadcast_to(np.asarray(grey), (3, 84, 84)))

    orange = Image.new("RGB", (100, 90), (250, 120, 20)).convert("CMYK")
    assert orange.mode == "CMYK"
    np.testing.assert_allclose(one_image(orange)[:, 40, 40], (250, 120, 20), atol=6)


@pytest.mark.parametrize("normalise", [True, False])
def test_pixels_are_normalised_where_asked_for(normalise, extracted, tmp_path):
    data = MiniImageNet(
        root=str(extracted), cache_dir=str(tmp_path), normalise=normalise, num_queries=1, num_val_episodes=1
    )
    data.prepare_data()
    data.setup("fit")
    pixels = data.episode(next(iter(data.val_dataloader()))).query_x
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MiniImageNet.mean, MiniImageNet.std))
    in_range = pixels * std + mean if normalise else pixels
    assert in_range.min() > -1e-5 and in_range.max() < 1 + 1e-5
    assert (pixels.min() < -1) == normalise
    levels = in_range * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)


def test_training_images_are_augmented_where_asked_for(extracted, tmp_path):
    def episode(**settings):
        data = MiniImageNet(root=str(extracted), cache_dir=str(tmp_path), num_queries=1, **settings)
        data.prepare_data()
        data.setup("fit")
        return data.episode(next(iter(data.train_dataloader()))).query_x

    assert torch.equal(episode(augment=False), episode(augment=False))
    assert not torch.allclose(episode(), episode(augment=False), atol=0.01)


@pytest.mark.parametrize("root", ["", "nothing"])
def test_where_it_is_not_it_says_what_to_get_and_where_to_put_it(root, tmp_path):
    (tmp_path / "cifar100" / "train").mkdir(parents=True)  # another benchmark's files do not count
    data = MiniImageNet(root=str(tmp_path / root), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError) as error:
        data.prepare_data()
    said = str(error.value)
    assert f"not in {tmp_path / root} " in said and f"{tmp_path / root}/mini_imagenet/<wnid>/*.jpg" in said
    assert "https://image-net.org" in said and "--data.root" in said and "\n" not in said


def test_bad_input_is_named_with_its_cure(extracted, tmp_path):
    shutil.copytree(extracted, tmp_path, dirs_exist_ok=True)
    first, second = sorted(SPLIT["val"])[:2]
    (tmp_path / "mini_imagenet" / first / f"{first}{NUMBERS[0]}.jpg").write_bytes(b"\xff\xd8\xff\xe0cut short")
    with pytest.raises(InputError, match=rf"{first}{NUMBERS[0]}\.jpg cannot be decoded .*replace"):
        images_of(tmp_path, "val")
    shutil.rmtree(tmp_path / "mini_imagenet" / first)
    shutil.rmtree(tmp_path / "mini_imagenet" / second)
    with pytest.raises(InputError, match=rf"class '{first}' has no images in .*mini_imagenet.*again"):
        images_of(tmp_path, "val")
    images_of(tmp_path, "test")  # needs none of those


@pytest.mark.filterwarnings("default")
def test_an_incomplete_copy_is_warned_of(extracted):
    with pytest.warns(UserWarning, match=r"'n\d{8}' has 3 images in .*mini_imagenet and not 600"):
        images_of(extracted, "test")


def test_pickled_images_are_resized_like_files(extracted, pickled):
    names, images = images_of(pickled, "val", image_size=20)
    expected_names, expected_images = images_of(extracted, "val", image_size=20)
    assert names == expected_names
    np.testing.assert_array_equal(images, expected_images)


@pytest.mark.filterwarnings("default")
def test_the_number_of_pickled_images_is_checked(pickled):
    with pytest.warns(UserWarning, match=r"'n\d{8}' has 3 images in .*mini_imagenet and not 600"):
        images_of(pickled, "test")


def test_images_are_preferred_to_pickles_beside_them(extracted, pickled, tmp_path):
    shutil.copytree(extracted, tmp_path, dirs_exist_ok=True)
    before = MiniImageNet(root=str(tmp_path)).source_fingerprint()
    (tmp_path / "mini_imagenet" / "mini-imagenet-cache-train.pkl").write_bytes(b"never opened")
    assert MiniImageNet(root=str(tmp_path)).source_fingerprint() == before
    images_of(tmp_path, "val")


def test_pickles_are_packed_once_and_again_when_they_change(pickled, tmp_path):
    shutil.copytree(pickled, tmp_path, dirs_exist_ok=True)

    def prepared():
        data = MiniImageNet(root=str(tmp_path), cache_dir=str(tmp_path / "cache"), image_size=8)
        data.prepare_data()
        return data.source_fingerprint()

    before = prepared()
    test = tmp_path / "mini_imagenet" / "mini-imagenet-cache-test.pkl"
    assert prepared() == before
    assert len(list((tmp_path / "cache").iterdir())) == 1
    os.utime(test, ns=(1, 1))
    assert prepared() != before
    test.unlink()
    with pytest.raises(InputError, match=r"class 'n\d{8}' has no images .* in mini-imagenet-cache-\{train,val,test\}"):
        prepared()


class Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.makedirs, (str(self.folder),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda ran: {"image_data": Payload(ran), "class_dict": {}}, "wants to run os.makedirs: download it again"),
        (lambda ran: {"images": np.zeros(3)}, "does not hold miniImageNet as its name says: get it again"),
        (lambda ran: [np.zeros(3)], "does not hold miniImageNet"),
        (lambda ran: of_cache(np.zeros((1, 84, 84, 3)), CLASSES[:1]), "does not hold miniImageNet"),
        (lambda ran: of_cache(np.zeros((1, 84, 84), np.uint8), CLASSES[:1]), "does not hold miniImageNet"),
        (lambda ran: of_cache(np.zeros((1, 84, 84, 3), np.uint8), CLASSES[:2]), "does not hold miniImageNet"),
    ],
)
def test_a_bad_pickle_is_named_and_no_code_in_it_is_run(content, message, pickled, tmp_path):
    shutil.copytree(pickled, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "mini_imagenet" / "mini-imagenet-cache-val.pkl"
    path.write_bytes(pickle.dumps(content(tmp_path / "ran")))
    with pytest.raises(InputError) as caught:
        images_of(tmp_path, "val")
    assert str(caught.value).startswith(f"{path} {message}") and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_is_cut_short_is_named(pickled, tmp_path):
    shutil.copytree(pickled, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "mini_imagenet" / "mini-imagenet-cache-val.pkl"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cache-val\.pkl is not a whole pickle of arrays: download or copy it again"):
        images_of(tmp_path, "val")


def test_a_changed_source_has_another_fingerprint(extracted, flat, tmp_path):
    def fingerprint(root):
        return json.dumps(MiniImageNet(root=str(root)).source_fingerprint())

    shutil.copytree(extracted, tmp_path, dirs_exist_ok=True)
    before = fingerprint(tmp_path)
    assert before == fingerprint(tmp_path)
    assert len({before, fingerprint(extracted), fingerprint(flat)}) == 3
    next((tmp_path / "mini_imagenet").glob("*/*.jpg")).unlink()
    assert fingerprint(tmp_path) != before
