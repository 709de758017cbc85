import io
import tarfile
import tempfile

import pytest
from PIL import Image

from fewshot_pl.data import archives
from fewshot_pl.data.archives import TarTree, find_tree
from fewshot_pl.data.image_tree import ImageFile
from fewshot_pl.errors import InputError

MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
NAMES = [f"set/{folder}/{number}.png" for folder in ("cat", "dog") for number in range(5)]


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(content, format="png")
    return content.getvalue()


def add(archive, name, content=b"", **changed):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in changed.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def written(path, mode):
    with tarfile.open(path, mode) as archive:
        add(archive, "set", type=tarfile.DIRTYPE)
        for number, name in enumerate(reversed(NAMES)):
            add(archive, f"./{name}", png((number, 0, 0)))
        add(archive, "set/labels.txt", b"cat dog")
    return path


@pytest.fixture
def archive(tmp_path):
    return written(tmp_path / "set.tgz", "w:gz")


@pytest.mark.parametrize("ending", MODES)
def test_members_are_read_in_any_order(ending, tmp_path):
    written(tmp_path / f"set{ending}", MODES[ending])
    tree = find_tree(tmp_path, "set")
    assert isinstance(tree, TarTree)
    assert tree.names == NAMES and tree.files == sorted([*NAMES, "set/labels.txt"])
    for position in (3, 9, 0, 3):
        pixel = ImageFile(tree, NAMES[position]).decoded().getpixel((0, 0))
        assert pixel == (9 - position, 0, 0)
    assert tree.read("set/labels.txt") == b"cat dog"


def test_a_compressed_archive_is_unpacked_once_and_a_plain_one_never(tmp_path, monkeypatch):
    unpacked = []

    def temporary_file(**settings):
        unpacked.append(settings)
        return tempfile.SpooledTemporaryFile(**settings)

    monkeypatch.setattr(archives.tempfile, "TemporaryFile", temporary_file)
    for ending, mode, count in ((".tgz", "w:gz", 1), (".tar", "w", 0)):
        tree = TarTree(written(tmp_path / f"set{ending}", mode))
        unpacked.clear()
        for name in [*tree.names, *reversed(tree.names)]:
            tree.read(name)
        assert len(unpacked) == count


def test_it_can_be_closed_and_read_again(archive):
    tree = TarTree(archive)
    before = tree.read(NAMES[0])
    file = tree._archive.fileobj
    tree.close()
    assert file.closed
    tree.close()
    assert tree.read(NAMES[0]) == before
    tree.close()


def test_nothing_is_written_wherever_a_member_points_to(tmp_path):
    (tmp_path / "secret.png").write_bytes(png("red"))
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "set.tgz", "w:gz") as file:
        add(file, "../outside.png", png("red"))
        add(file, f"{tmp_path}/absolute.png", png("red"))
        add(file, "set/link.png", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.png"))
        add(file, "set/hard.png", type=tarfile.LNKTYPE, linkname="../secret.png")
        add(file, "set/pipe.png", type=tarfile.FIFOTYPE)
        add(file, "set/good.png", png("blue"))
    tree = TarTree(tmp_path / "in" / "set.tgz")
    assert tree.names == [f"{tmp_path}/absolute.png", "set/good.png"]
    for name in tree.names:
        tree.read(name)
    tree.close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "secret.png", "set.tgz"]


# Changed bytes in a plain tar are found only on decoding, as it has no checksum of its contents.
@pytest.mark.parametrize(
    ("ending", "damage"),
    [(ending, damage) for ending in MODES for damage in ("cut", "none", "empty")]
    + [(ending, "changed") for ending in MODES if ending != ".tar"],
)
def test_a_damaged_archive_is_named(ending, damage, tmp_path):
    path = written(tmp_path / f"set{ending}", MODES[ending])
    whole = path.read_bytes()
    middle = len(whole) // 2
    content = {"cut": whole[: middle + 7], "changed": whole[:middle] + b"x" * 40 + whole[middle + 40 :]}
    path.write_bytes(content.get(damage, b"<html>not found</html>" if damage == "none" else b""))
    with pytest.raises(
        InputError, match=r"set\.\S+ is not a whole tar archive \(.+\): download or copy it again"
    ) as error:
        for name in TarTree(path).names:
            TarTree(path).read(name)
    assert "\n" not in str(error.value)


def test_a_full_disk_is_said_with_its_cure(archive, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TarTree, "_copy", full)
    with pytest.raises(InputError, match=r"set\.tgz cannot be unpacked .*No space.*make room.*extract it yourself"):
        _ = TarTree(archive).names


def test_its_fingerprint_does_not_open_it(archive):
    before = TarTree(archive).fingerprint()
    assert before == TarTree(archive).fingerprint()
    archive.write_bytes(b"no archive")
    assert TarTree(archive).fingerprint() != before
