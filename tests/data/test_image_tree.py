import os
import zipfile

import pytest
from PIL import Image

from fewshot_pl.data.archives import ZipTree, find_tree
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.errors import InputError

IMAGES = ["cat/a.png", "cat/deep/b.png", "dog/c.PNG", "top.png"]
NOISE = [".DS_Store", "cat/Thumbs.db", "cat/._a.png", "notes.txt", "__MACOSX/cat/._a.png", ".git/d.png", "cat/README"]


@pytest.fixture
def folder(tmp_path):
    for name in IMAGES + NOISE:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), "red").save(path, format="png")
    return tmp_path / "set"


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "zipped" / "set.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for entry in sorted(folder.rglob("*")):
            file.write(entry, f"set/{entry.relative_to(folder).as_posix()}")
    return path


def test_only_images_are_seen(folder, archive):
    assert FolderTree(folder).names == IMAGES
    assert ZipTree(archive).names == [f"set/{name}" for name in IMAGES]


def test_linked_folders_are_followed(folder, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(folder / "cat")
    assert FolderTree(tmp_path / "links").names == ["cat/a.png", "cat/deep/b.png"]


def test_a_folder_and_an_archive_decode_alike(folder, archive):
    for tree, name in ((FolderTree(folder), "cat/a.png"), (ZipTree(archive), "set/cat/a.png")):
        assert ImageFile(tree, name).decoded().getpixel((0, 0)) == (255, 0, 0)


def test_the_archive_is_preferred_to_the_folder(folder, archive):
    assert isinstance(find_tree(folder.parent, "set"), FolderTree)
    assert isinstance(find_tree(archive.parent, "set"), ZipTree)
    (archive.parent / "set").mkdir()
    assert isinstance(find_tree(archive.parent, "set"), ZipTree)
    assert find_tree(folder, "set") is None


@pytest.mark.parametrize("change", ["added", "removed", "resized", "touched"])
def test_a_folders_fingerprint_notices(folder, change):
    before = FolderTree(folder).fingerprint()
    assert FolderTree(folder).fingerprint() == before
    if change == "added":
        (folder / "new.png").write_bytes(b"")
    if change == "removed":
        (folder / "top.png").unlink()
    if change == "resized":
        times = (folder / "top.png").stat()
        (folder / "top.png").write_bytes(b"x")
        os.utime(folder / "top.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    if change == "touched":
        os.utime(folder / "top.png", ns=(1, 1))
    assert FolderTree(folder).fingerprint() != before


def test_an_archives_fingerprint_does_not_open_it(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"no archive")
    before = ZipTree(tmp_path / "set.zip").fingerprint()
    (tmp_path / "set.zip").write_bytes(b"another one")
    assert ZipTree(tmp_path / "set.zip").fingerprint() != before


def test_a_damaged_image_is_named(folder):
    whole = (folder / "top.png").read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2], whole[:45] + b"\xff" + whole[46:]):
        (folder / "top.png").write_bytes(content)
        with pytest.raises(InputError, match=r"image .*set/top\.png cannot be decoded .*replace it or remove it"):
            ImageFile(FolderTree(folder), "top.png").decoded()


def test_a_damaged_archive_is_named(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"set\.zip is not a whole zip archive .*again"):
        _ = ZipTree(archive).names


def test_a_damaged_member_of_an_archive_is_named(archive):
    content = bytearray(archive.read_bytes())
    position = content.index(b"IHDR")
    content[position + 1] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"set\.zip is not a whole zip archive \(Bad CRC-32 .*'set/"):
        for name in [*ZipTree(archive).names, "set/.DS_Store"]:
            ImageFile(ZipTree(archive), name).decoded()


def test_large_photographs_may_be_decoded_smaller(tmp_path):
    Image.new("RGB", (1600, 800), "red").save(tmp_path / "photo.jpg")
    file = ImageFile(FolderTree(tmp_path), "photo.jpg")
    assert file.decoded().size == (1600, 800)
    assert file.decoded(at_least=168).size == (400, 200)
