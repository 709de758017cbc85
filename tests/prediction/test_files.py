"""Which of a user's files count as examples and as queries."""

from pathlib import Path

import pytest

from fewshot_pl.errors import InputError
from fewshot_pl.prediction.files import query_files, support_classes


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_classes_are_folders_with_all_images_below_them(tmp_path):
    touch(tmp_path, "cat/1.png", "cat/more/2.JPG", "cat/notes.txt", "dog/a.webp", ".cache/x.png", "dog/.hidden.png")
    found = support_classes(tmp_path)
    assert {name: files.images for name, files in found.items()} == {
        "cat": [tmp_path / "cat/1.png", tmp_path / "cat/more/2.JPG"],
        "dog": [tmp_path / "dog/a.webp"],
    }
    assert found["cat"].others == [tmp_path / "cat/notes.txt"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "holds no class folders"),
        (["1.png", "2.png"], "holds no class folders"),
        (["cat/1.png"], "holds 1 class folder and at least two"),
        (["cat/1.png", "dog/notes.txt"], "dog holds no image: add images"),
        (["cat/1.png", "dog/1.HEIC", "dog/2.HEIC"], r"dog holds no image .* '1\.HEIC' \(and 1 more\): convert to JPEG"),
    ],
)
def test_folders_that_are_no_classes(tmp_path, names, told):
    with pytest.raises(InputError, match=told):
        support_classes(touch(tmp_path, *names))


def test_a_missing_support_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        support_classes(tmp_path / "nothing")


def test_a_query_is_folders_files_and_patterns_each_image_once(tmp_path):
    touch(tmp_path, "new/1.png", "new/2.jpg", "new/deep/3.png", "new/readme.txt", "one.png", "two.gif")
    found = query_files([str(tmp_path / "new"), str(tmp_path / "*.png"), str(tmp_path / "new/1.png")])
    names = [path.relative_to(tmp_path).as_posix() for path in found.images]
    assert names == ["new/1.png", "new/2.jpg", "new/deep/3.png", "one.png"]
    assert found.others == [tmp_path / "new/readme.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    touch(tmp_path, "a[1].png", "a1.png")
    assert query_files([str(tmp_path / "a[1].png")]).images == [tmp_path / "a[1].png"]


@pytest.mark.parametrize(
    ("pattern", "told"), [("nothing", "no file or folder"), ("*.png", "no file or folder"), ("a.txt", "names no image")]
)
def test_queries_without_images(tmp_path, pattern, told):
    touch(tmp_path, "a.txt")
    with pytest.raises(InputError, match=told):
        query_files([str(tmp_path / pattern)])
