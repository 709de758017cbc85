"""The benchmarks whose files are placed by hand or downloaded, on tiny copies of their archives."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import json
import shutil

import numpy as np
import pytest
from tiny_archives import IMAGES, WRITERS, classes_of, colour_of, packed

from fewshot_pl import benchmarks
from fewshot_pl.data.datamodule import SPLITS
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")


@pytest.fixture(params=WRITERS)
def benchmark(request, monkeypatch):
    """A benchmark that accepts any archive as the published one."""
    benchmark = getattr(benchmarks, request.param)
    monkeypatch.setattr(benchmark, "remotes", ())
    return benchmark


@pytest.fixture
def folder(benchmark, cut, tmp_path):
    return WRITERS[benchmark.__name__](tmp_path / "written", cut)


def images_of(benchmark, root, split, **settings):
    data = benchmark(root=str(root), image_size=8, **settings)
    names, images = zip(*data.class_images(split), strict=True)
    return list(names), np.stack(images)


def form(folder, kind, root):
    """The ``--data.root`` for a benchmark in one of the forms in which users have it."""
    if kind in ("extracted", "the folder itself"):
        return folder.parent if kind == "extracted" else folder
    root.mkdir()
    packed(folder, root / f"{folder.name}{kind}")
    return root


@pytest.mark.parametrize("kind", ["extracted", "the folder itself", ".zip", ".tar", ".tgz", ".tar.gz"])
def test_every_form_gives_the_images_of_the_published_split(kind, benchmark, cut, folder, tmp_path):
    root = form(folder, kind, tmp_path / "packed")
    every = classes_of(cut, benchmark.split_name)
    for split in SPLITS:
        names, images = images_of(benchmark, root, split)
        assert names == sorted(cut(benchmark.split_name)[split]) == benchmark().published_classes(split)
        assert images.shape == (2, IMAGES, 3, 8, 8) and images.dtype == np.uint8
        for name, of_class in zip(names, images, strict=True):
            colours = of_class[:, :, 2, 3]  # within the box, whether cropped to it or not
            expected = [colour_of(every.index(name), image) for image in range(IMAGES)]
            np.testing.assert_allclose(colours, expected, atol=12)


def test_no_archive_is_left_open_and_no_file_beside_it(benchmark, folder, tmp_path):
    root = form(folder, ".tgz", tmp_path / "packed")
    data = benchmark(root=str(root), cache_dir=str(tmp_path / "cache"), num_queries=1, num_ways=2)
    data.prepare_data()
    data.setup("fit")
    assert data.stores["train"].num_classes == 2
    assert "_trees" not in vars(data)
    assert [path.name for path in root.iterdir()] == [f"{folder.name}.tgz"]


def test_a_missing_class_is_named_with_its_cure(benchmark, cut, folder):
    name = sorted(cut(benchmark.split_name)["val"])[1]
    files = next(files for found, files in zip(*found_files(benchmark, folder), strict=True) if found == name)
    for file in files:
        (file.tree.path / file.name).unlink()
    with pytest.raises(InputError, match=rf"class '{name}' has no images in {folder}: it should hold .*again"):
        images_of(benchmark, folder.parent, "val")
    images_of(benchmark, folder.parent, "test")  # needs none of those


def found_files(benchmark, folder):
    from fewshot_pl.benchmarks.placed import files_by_class

    data = benchmark(root=str(folder.parent))
    files = files_by_class(data.tree, data.class_of())
    return list(files), list(files.values())


@pytest.mark.filterwarnings("default")
def test_an_incomplete_copy_is_warned_of(benchmark, folder):
    published = benchmark.images_per_class or benchmark.num_images
    count = IMAGES if benchmark.images_per_class else 6 * IMAGES
    with pytest.warns(UserWarning, match=rf"has {count} images.* not {published}: no figure"):
        images_of(benchmark, folder.parent, "test")


def test_where_it_is_not_it_says_what_to_get_and_where_to_put_it(benchmark, cut, tmp_path):
    with pytest.raises(InputError) as error:
        benchmark(root=str(tmp_path), cache_dir=str(tmp_path / "cache")).prepare_data()
    said = str(error.value)
    assert said.startswith(f"{benchmark.__name__} is not in {tmp_path} and is not downloaded: ")
    assert "https://" in said and said.count(str(tmp_path)) >= 2 and "--data.root" in said and "\n" not in said


def test_a_changed_source_or_setting_has_another_fingerprint(benchmark, cut, folder, tmp_path):
    def fingerprint(root, **settings):
        return json.dumps(benchmark(root=str(root), **settings).source_fingerprint())

    before = fingerprint(folder.parent)
    assert before == fingerprint(folder.parent)
    zipped = form(folder, ".zip", tmp_path / "packed")
    assert len({before, fingerprint(zipped), fingerprint(folder.parent, image_size=32)}) == 3
    if "bounding_box" in benchmark().hparams:
        boxed = {fingerprint(folder.parent, bounding_box=value) for value in (True, False)}
        assert len(boxed) == 2 and before in boxed
    annotations = [path for path in folder.rglob("*") if path.suffix in (".txt", ".json", ".mat")]
    for path in [*annotations, next(iter(folder.rglob("*.[jJ]*[gG]")))]:
        before = fingerprint(folder.parent)
        path.write_bytes(path.read_bytes() + b" ")
        assert fingerprint(folder.parent) != before


def test_missing_annotations_are_named(benchmark, folder):
    settings = {"bounding_box": True} if "bounding_box" in benchmark().hparams else {}
    for path in [path for path in folder.rglob("*") if path.suffix in (".txt", ".json", ".mat")]:
        path.unlink()
    if benchmark.__name__ in ("DTD", "TieredImageNet"):
        images_of(benchmark, folder.parent, "test")  # need none
        return
    with pytest.raises(InputError, match=rf"there is no \w+\.\w+ in {folder} or beside it: "):
        images_of(benchmark, folder.parent, "test", **settings)


@pytest.mark.parametrize("benchmark", ["CUB", "FGVCAircraft", "Fungi", "VGGFlowers"], indirect=True)
def test_damaged_annotations_are_named(benchmark, folder):
    settings = {"bounding_box": True} if "bounding_box" in benchmark().hparams else {}
    for path in [path for path in folder.rglob("*") if path.suffix in (".txt", ".json", ".mat")]:
        whole = path.read_bytes()
        path.write_bytes(b"damaged\n" + whole[: len(whole) // 2])
        if path.name in ("classes.txt", "parts.txt", "images_variant_trainval.txt"):  # not needed
            images_of(benchmark, folder.parent, "test", **settings)
        else:
            with pytest.raises(InputError, match=rf"{path.name} cannot be read \(.+\): extract or copy it again"):
                images_of(benchmark, folder.parent, "test", **settings)
        path.write_bytes(whole)


def test_a_damaged_image_is_named(benchmark, folder):
    for path in folder.rglob("*.[jJ]*[gG]"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"image .*\.(jpg|JPG|JPEG) cannot be decoded .*replace it"):
        images_of(benchmark, folder.parent, "test")


def test_the_folder_and_an_archive_of_the_same_name(benchmark, folder):
    """The archive is used: the folder may be left from a broken extraction."""
    packed(folder, folder.parent / f"{folder.name}.zip")
    shutil.rmtree(folder)
    folder.mkdir()
    names, _ = images_of(benchmark, folder.parent, "test")
    assert len(names) == 2
