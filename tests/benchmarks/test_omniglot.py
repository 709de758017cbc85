import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import hashlib
import io
import itertools
import os
import shutil
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision import datasets

from fewshot_pl.benchmarks import Omniglot
from fewshot_pl.benchmarks.omniglot import _ink
from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")
ALL = sorted(published_split("omniglot_vinyals")["trainval"] + published_split("omniglot_vinyals")["test"])
EVALUATION = published_split("omniglot_alphabets")["test"]


def a_drawing(num_rows):
    """A PNG as in the archives, 105x105 in black and white, with its upper rows black."""
    drawing = Image.new("1", (105, 105), 1)
    drawing.paste(0, (0, 0, 105, num_rows))
    buffer = io.BytesIO()
    drawing.save(buffer, format="png")
    return buffer.getvalue()


def num_rows(character, drawing):
    return ALL.index(character) % 50 + 1 + 50 * drawing


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    """The two archives with all 1,623 characters, 2 drawings each."""
    root = tmp_path_factory.mktemp("omniglot")
    drawings = {rows: a_drawing(rows) for rows in range(1, 101)}
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            archive.writestr(f"__MACOSX/{name}/Greek/character01/._0000_01.png", b"not an image")
            for character, drawing in itertools.product(ALL, (1, 0)):
                if (character.split("/")[0] in EVALUATION) == (name == "images_evaluation"):
                    path = f"{name}/{character}/{ALL.index(character):04}_{drawing + 1:02}.png"
                    archive.writestr(path, drawings[num_rows(character, drawing)])
    return root


@pytest.fixture(scope="module")
def built(zipped, tmp_path_factory):
    data = Omniglot(root=str(zipped), cache_dir=str(tmp_path_factory.mktemp("cache")), num_queries=1)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


@pytest.fixture
def offline(monkeypatch):
    class Offline(datasets.Omniglot):
        def download(self):
            raise URLError("no network")

    monkeypatch.setattr(datasets, "Omniglot", Offline)


def test_the_vinyals_split_has_its_published_sizes(built):
    sizes = {split: store.num_classes for split, store in built.stores.items()}
    assert sizes == {"train": 1028, "val": 172, "test": 423}
    assert all(len(store.images) == 2 * store.num_classes for store in built.stores.values())
    assert built.stores["train"].images.shape[1:] == built.image_shape == (1, 28, 28)


def test_every_image_is_the_one_of_its_character_in_order(built):
    for split, store in built.stores.items():
        assert list(store.class_names) == sorted(published_split("omniglot_vinyals")[split])
        for index, character in enumerate(store.class_names):
            expected = [num_rows(character, drawing) / 105 for drawing in (0, 1)]
            np.testing.assert_allclose(store.class_images(index).mean(axis=(1, 2, 3)) / 255, expected, atol=0.01)


def test_ink_is_1_and_paper_0_and_up_is_up(built):
    episode = built.episode(next(iter(built.test_dataloader())))
    assert episode.support_x.min() == 0 and episode.support_x.max() == 1
    store = built.stores["train"]
    drawing = store.class_images(store.class_names.index("Greek/character01"))[0, 0]
    filled = num_rows("Greek/character01", 0) * 28 // 105
    assert (drawing[: filled - 1] > 250).all() and (drawing[filled + 2 :] < 5).all()


@pytest.fixture
def strokes(monkeypatch):
    """A drawing, in place of each in the archives, whose edges lie between the pixels of 28x28."""
    strokes = Image.new("1", (105, 105), 1)
    for start in range(5, 100, 9):
        ImageDraw.Draw(strokes).line([(start, 0), (104 - start // 2, 104)], fill=0, width=3)
    monkeypatch.setattr(ImageFile, "decoded", lambda self: strokes)
    return strokes


def test_without_antialias_drawings_are_those_of_the_papers_codes(zipped, strokes):
    smooth, binary = (Omniglot(root=str(zipped), antialias=antialias) for antialias in (True, False))
    _, images = next(iter(binary.class_images("val")))
    theirs = np.asarray(strokes.resize((28, 28), resample=Image.Resampling.LANCZOS)).astype(np.float32)
    assert (images[0, 0] / 255 == 1 - theirs).all()
    _, images = next(iter(smooth.class_images("val")))
    assert ((images > 0) & (images < 255)).mean() > 0.1
    assert smooth.source_fingerprint() != binary.source_fingerprint()


@pytest.mark.parametrize("antialias", [True, False])
def test_a_users_drawing_is_prepared_as_those_in_the_archives(strokes, antialias):
    stored = _ink(ImageFile(FolderTree(Path()), "drawing.png"), antialias)
    np.testing.assert_array_equal(Omniglot(antialias=antialias).own_image(strokes), stored)


def test_each_quarter_turn_of_a_character_is_a_class(built):
    assert [built.num_rotations(split) for split in ("train", "val", "test")] == [4, 4, 4]
    turns = torch.cat([batch.indices.quarter_turns for batch in built.test_dataloader()])
    assert (torch.bincount(turns.flatten(), minlength=4) > 0.2 * turns.numel()).all()


@pytest.mark.parametrize(("rotations", "expected"), [(True, [4, 4, 4]), (False, [1, 1, 1]), ("train", [4, 1, 1])])
def test_rotations_can_be_left_out(rotations, expected):
    data = Omniglot(rotations=rotations)
    assert [data.num_rotations(split) for split in ("train", "val", "test")] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "Vinyals"}, "--data.split takes one of 'vinyals', 'alphabets', not Vinyals"),
        ({"rotations": 1}, "--data.rotations takes bool or one of 'train', not 1"),
        ({"num_ways": "5"}, "--data.num_ways takes a whole number, not 5"),
        ({"num_ways": 5.0}, "--data.num_ways takes a whole number, not 5.0"),
        ({"unlabelled_tasks": True}, "--data.unlabelled_tasks takes a number, not True"),
        ({"train_num_shots": "one"}, "--data.train_num_shots takes a whole number or null, not one"),
        ({"root": None}, "--data.root takes str, not None"),
    ],
)
def test_an_argument_of_another_type_is_refused_as_a_flag_is(settings, message):
    with pytest.raises(InputError, match=message):
        Omniglot(**settings)


def test_numbers_of_numpy_and_paths_are_taken(tmp_path):
    data = Omniglot(num_ways=np.int64(3), unlabelled_tasks=np.float32(0.5), root=tmp_path, cache_dir=tmp_path)
    assert data.eval_size.num_ways == 3 and data.root == tmp_path


def test_training_can_include_the_validation_characters(zipped):
    data = Omniglot(root=str(zipped), train_on_val=True)
    assert data.published_classes("train") == sorted(published_split("omniglot_vinyals")["trainval"])
    assert len(data.published_classes("train")) == 1200
    assert data.published_classes("test") == Omniglot().published_classes("test")
    assert data.source_fingerprint() != Omniglot(root=str(zipped)).source_fingerprint()


def test_the_alphabets_split_keeps_alphabets_apart():
    data = Omniglot(split="alphabets")
    names = {split: data.published_classes(split) for split in ("train", "val", "test")}
    assert {split: len(characters) for split, characters in names.items()} == {"train": 792, "val": 172, "test": 659}
    assert sorted(itertools.chain(*names.values())) == ALL
    alphabets = {split: {name.split("/")[0] for name in characters} for split, characters in names.items()}
    assert {split: len(found) for split, found in alphabets.items()} == {"train": 25, "val": 5, "test": 20}
    assert not alphabets["train"] & alphabets["val"] and not alphabets["train"] & alphabets["test"]
    assert len(Omniglot(split="alphabets", train_on_val=True).published_classes("train")) == 964


def test_extracted_archives_give_the_same_images(built, zipped, tmp_path):
    for name in ("images_background", "images_evaluation"):
        zipfile.ZipFile(zipped / f"{name}.zip").extractall(tmp_path)
    data = Omniglot(root=str(tmp_path))
    for split in ("train", "test"):
        extracted = list(itertools.islice(data.class_images(split), 100))
        assert [name for name, _ in extracted] == list(built.stores[split].class_names[:100])
        images = np.concatenate([images for _, images in extracted])
        np.testing.assert_array_equal(images, built.stores[split].images[:200])


def test_what_is_not_there_is_downloaded_once(zipped, built, tmp_path, monkeypatch):
    class Server(datasets.Omniglot):
        zips_md5 = dict.fromkeys(datasets.Omniglot.zips_md5)  # the test's archives have other checksums

        def download(self):
            if not self._check_integrity():
                name = self._get_target_folder()
                Path(self.root).mkdir(parents=True, exist_ok=True)
                shutil.copy(zipped / f"{name}.zip", self.root)
                with zipfile.ZipFile(zipped / f"{name}.zip") as archive:
                    archive.extractall(self.root)

    monkeypatch.setattr(datasets, "Omniglot", Server)
    data = Omniglot(root=str(tmp_path))
    fingerprint = data.source_fingerprint()
    name, images = next(iter(data.class_images("test")))
    assert name == built.stores["test"].class_names[0]
    np.testing.assert_array_equal(images, built.stores["test"].class_images(0))
    assert (tmp_path / "omniglot-py" / "images_background.zip").is_file()
    assert data.source_fingerprint() == fingerprint


def test_a_downloaded_archive_is_read_without_the_folder_that_was_extracted(
    zipped, built, tmp_path, offline, monkeypatch
):
    (tmp_path / "omniglot-py").mkdir()
    for name in ("images_background", "images_evaluation"):
        content = (zipped / f"{name}.zip").read_bytes()
        (tmp_path / "omniglot-py" / f"{name}.zip").write_bytes(content)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(datasets.Omniglot.zips_md5, name, md5)
    name, images = next(iter(Omniglot(root=str(tmp_path)).class_images("test")))
    assert name == built.stores["test"].class_names[0]
    np.testing.assert_array_equal(images, built.stores["test"].class_images(0))
    (tmp_path / "omniglot-py" / "images_background.zip").write_bytes(b"half of it")
    with pytest.raises(InputError, match="download failed"):
        next(iter(Omniglot(root=str(tmp_path)).class_images("test")))


def test_what_torchvision_extracted_is_read_without_its_zips(zipped, built, tmp_path, offline):
    for name in ("images_background", "images_evaluation"):
        zipfile.ZipFile(zipped / f"{name}.zip").extractall(tmp_path / "omniglot-py")
    data = Omniglot(root=str(tmp_path))
    name, images = next(iter(data.class_images("test")))
    assert name == built.stores["test"].class_names[0]
    np.testing.assert_array_equal(images, built.stores["test"].class_images(0))
    before = data.source_fingerprint()
    os.utime(next((tmp_path / "omniglot-py").rglob("*.png")), ns=(1, 1))
    assert data.source_fingerprint() != before


def test_without_network_it_says_which_file_goes_where(tmp_path, offline):
    data = Omniglot(root=str(tmp_path / "nothing"), cache_dir=str(tmp_path / "cache"))
    message = (
        r"download failed \(.*no network.*\): get images_background\.zip from https://\S+ and put it into .*nothing"
    )
    with pytest.raises(InputError, match=message):
        data.prepare_data()
    assert not list((tmp_path / "cache").glob("*/[!.]*"))


def test_with_one_archive_it_names_the_other(zipped, tmp_path, offline):
    shutil.copy(zipped / "images_background.zip", tmp_path)
    with pytest.raises(InputError, match=r"get images_evaluation\.zip from"):
        next(iter(Omniglot(root=str(tmp_path)).class_images("train")))


def test_a_damaged_archive_a_damaged_image_and_a_missing_character_are_named(zipped, tmp_path):
    for name in ("images_background", "images_evaluation"):
        shutil.copy(zipped / f"{name}.zip", tmp_path)
    whole = (tmp_path / "images_background.zip").read_bytes()
    (tmp_path / "images_background.zip").write_bytes(whole[:10_000])
    with pytest.raises(InputError, match=r"images_background\.zip is not a whole zip"):
        next(iter(Omniglot(root=str(tmp_path)).class_images("train")))
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT", whole.index(b"Alphabet_of_the_Magi/character01/")) + 6] ^= 255
    (tmp_path / "images_background.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=r"\.zip is not a whole .*Alphabet_of_the_Magi/character01/.*download or copy"):
        next(iter(Omniglot(root=str(tmp_path)).class_images("train")))
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w"):
        pass
    with pytest.raises(InputError, match=r"'Alphabet_of_the_Magi/character01' has no images .*extract"):
        next(iter(Omniglot(root=str(tmp_path)).class_images("train")))


@pytest.mark.filterwarnings("default")
def test_missing_drawings_are_warned_of(zipped):
    with pytest.warns(UserWarning, match="has 2 images .* not 20"):
        next(iter(Omniglot(root=str(zipped)).class_images("train")))


def test_the_split_a_new_file_or_nothing_names_the_cache(zipped):
    def fingerprint(**settings):
        return Omniglot(root=str(zipped), **settings).source_fingerprint()

    assert fingerprint() == fingerprint(num_ways=20, seed=3, rotations=False)
    assert fingerprint() != fingerprint(split="alphabets")
    before = fingerprint()
    os.utime(zipped / "images_background.zip", ns=(1, 1))
    assert fingerprint() != before


def test_turning_before_or_after_scaling_down_hardly_differs(tmp_path):
    """We turn the small images, ProtoNet's code the large ones; Lanczos' overshoot is clipped in between."""
    drawing = Image.new("1", (105, 105), 1)
    ImageDraw.Draw(drawing).line([(10, 20), (60, 80), (90, 30), (50, 95)], fill=0, width=3)
    drawing.save(tmp_path / "0.png")
    drawing.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png")
    small, turned = (_ink(ImageFile(FolderTree(tmp_path), name), True) for name in ("0.png", "1.png"))
    differences = np.abs(np.rot90(small, axes=(1, 2)).astype(int) - turned)
    assert differences.max() <= 20 and differences.mean() < 1


def test_the_real_archives_hold_every_character_20_times(shared_data):
    counts = {}
    for name in ("images_background", "images_evaluation"):
        for path in zipfile.ZipFile(shared_data / f"{name}.zip").namelist():
            character = "/".join(path.split("/")[1:3])
            counts[character] = counts.get(character, 0) + 1
    assert sorted(counts) == ALL
    assert set(counts.values()) == {20}
    name, images = next(iter(Omniglot(root=str(shared_data)).class_images("test")))
    assert images.shape == (20, 1, 28, 28)
    assert images[:, :, 0].mean() < 30 and images.max() > 200  # ink is bright and the rim is empty
