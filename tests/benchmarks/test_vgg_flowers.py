import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import hashlib

import numpy as np
import pytest
from tiny_archives import cut_splits, packed, write_flowers

from fewshot_pl import InputError
from fewshot_pl.benchmarks import VGGFlowers, vgg_flowers
from fewshot_pl.data.download import Remote

pytestmark = pytest.mark.filterwarnings("ignore:.*no figure will be comparable")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(VGGFlowers, "remotes", ())
    return write_flowers(tmp_path / "written", cut_splits(monkeypatch))


def pixels_of(root):
    return np.stack([images for _, images in VGGFlowers(root=str(root), image_size=8).class_images("train")])


@pytest.mark.parametrize("form", ["102flowers.tgz", "jpg", "the images themselves"])
def test_the_labels_may_lie_beside_the_images(form, folder, tmp_path):
    """As published: an archive of the folder jpg, and the labels separately."""
    expected = pixels_of(folder.parent)
    root = tmp_path / "root"
    root.mkdir()
    (root / "imagelabels.mat").write_bytes((folder / "imagelabels.mat").read_bytes())
    if form == "102flowers.tgz":
        packed(folder / "jpg", root / "102flowers.tgz")
    else:
        target = root / "jpg" if form == "jpg" else root
        for path in (folder / "jpg").iterdir():
            target.mkdir(exist_ok=True)
            (target / path.name).write_bytes(path.read_bytes())
    np.testing.assert_array_equal(pixels_of(root), expected)


def test_changed_labels_beside_an_archive_change_the_fingerprint(folder, tmp_path):
    (tmp_path / "imagelabels.mat").write_bytes(b"labels")
    packed(folder / "jpg", tmp_path / "102flowers.tgz")
    before = VGGFlowers(root=str(tmp_path)).source_fingerprint()
    assert before == VGGFlowers(root=str(tmp_path)).source_fingerprint()
    (tmp_path / "imagelabels.mat").write_bytes(b"other labels")
    assert VGGFlowers(root=str(tmp_path)).source_fingerprint() != before


def test_damaged_labels_are_not_parsed(folder, monkeypatch):
    """On some damaged files, SciPy's parser ends the process."""
    labels = folder / "imagelabels.mat"
    md5 = hashlib.md5(labels.read_bytes()).hexdigest()
    monkeypatch.setattr(VGGFlowers, "remotes", (Remote(labels.name, md5, ()),))
    assert len(pixels_of(folder))
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    monkeypatch.setattr(vgg_flowers, "_names", lambda content: pytest.fail("was parsed"))
    with pytest.raises(InputError, match=f"imagelabels.mat is not the published file .MD5 {md5}.: get 102flowers"):
        pixels_of(folder)
