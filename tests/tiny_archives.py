"""Tiny copies of the published archives, in their layout, with a few classes of each split.

Every image has a colour of its own, ``colour_of(class_index, image_index)``, in its box, and is white around it.
"""

import io
import json
import shutil
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat

from fewshot_pl.benchmarks import placed
from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.data.datamodule import SPLITS

IMAGES = 3  # of each class
SIZE = (60, 50)
BOX = (10, 6, 42, 26)  # left, upper, right and lower end


def cut_splits(monkeypatch, num_classes=2):
    """Keep only the first classes of every split of the benchmarks whose files a user places."""

    def cut(name):
        return {split: sorted(published_split(name)[split])[:num_classes] for split in SPLITS}

    monkeypatch.setattr(placed, "published_split", cut)
    return cut


def colour_of(class_index, image_index):
    return (40 * class_index, 80 * image_index, 255 - 40 * class_index)


def photograph(class_index, image_index, box=(0, 0, *SIZE)):
    """The JPEG of a coloured box on white; by default the box fills the image."""
    image = Image.new("RGB", SIZE, "white")
    image.paste(colour_of(class_index, image_index), box)
    content = io.BytesIO()
    image.save(content, format="jpeg", quality=100, subsampling=0)
    return content.getvalue()


def write(folder, files):
    """Write files of bytes or lines, given by their paths below a folder."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (folder / path).write_bytes(content)
        else:
            (folder / path).write_text("".join(f"{line}\n" for line in content), "utf-8")


def classes_of(cut, name):
    """All classes in one list, in which ``class_index`` is the place; in another order than the benchmark's."""
    return [found for split in ("test", "train", "val") for found in cut(name)[split]]


def write_cub(root, cut):
    classes, images, boxes, photographs = classes_of(cut, "cub"), [], [], {}
    left, upper, right, lower = BOX
    for index, name in enumerate(classes):
        for image in range(IMAGES):
            path = f"{name}/{name[4:]}_00{image}_{1000 * index + image}.jpg"
            images.append(f"{len(images) + 1} {path}")
            boxes.append(f"{len(boxes) + 1} {left}.0 {upper}.0 {right - left}.0 {lower - upper}.0")
            photographs[f"images/{path}"] = photograph(index, image, BOX)
    lists = {"images.txt": images, "bounding_boxes.txt": boxes, "classes.txt": enumerate(classes, 1), "README": []}
    write(root / "CUB_200_2011", photographs | lists | {"parts/parts.txt": ["1 back"]})
    return root / "CUB_200_2011"


def write_aircraft(root, cut):
    """With boxes that reach one row into the banner and count pixels from 1."""
    lists, boxes, photographs, number = {part: [] for part in ("train", "val", "test")}, [], {}, 34309
    for index, name in enumerate(classes_of(cut, "fgvc_aircraft")):
        for image in range(IMAGES):
            number += 7
            lists[("train", "val", "test")[image]].append(f"{number:07d} {name}")
            boxes.append(f"{number:07d} {BOX[0] + 1} {BOX[1] + 1} {BOX[2]} 31")
            photographs[f"images/{number:07d}.jpg"] = photograph(index, image, (*BOX[:3], 30))
    texts = {f"images_variant_{part}.txt": lines for part, lines in lists.items()}
    texts |= {"images_box.txt": boxes, "images_variant_trainval.txt": lists["train"] + lists["val"]}
    write(root / "fgvc-aircraft-2013b", {f"data/{path}": content for path, content in (photographs | texts).items()})
    return root / "fgvc-aircraft-2013b"


def write_flowers(root, cut):
    """As torchvision extracts it, the labels beside the images."""
    classes = classes_of(cut, "vgg_flowers")
    order = [(index, image) for image in range(IMAGES) for index in range(len(classes))]
    folder = root / "flowers-102"
    write(folder, {f"jpg/image_{n:05d}.jpg": photograph(*pair) for n, pair in enumerate(order, 1)})
    savemat(folder / "imagelabels.mat", {"labels": np.array([[int(classes[i]) for i, _ in order]], dtype=np.uint8)})
    return folder


def write_dtd(root, cut):
    files = {
        f"images/{name}/{name}_000{image}.jpg": photograph(index, image)
        for index, name in enumerate(classes_of(cut, "dtd"))
        for image in range(IMAGES)
    }
    write(root / "dtd", files | {"images/waffled/.directory": [], "labels/test1.txt": ["banded/banded_0000.jpg"]})
    return root / "dtd"


def write_fungi(root, cut):
    """With two species of one name, and one that is in no split."""
    names = [*classes_of(cut, "fungi"), "9999.Russula vinosa"]
    tables = {part: {"images": [], "annotations": [], "categories": []} for part in ("train", "val")}
    files, number = {}, 0
    for index, name in enumerate(names):
        for image in range(IMAGES):
            table, number = tables["val" if image == 2 else "train"], number + 1
            path = f"images/{int(name[:4])}_Russula vinosa/IMG_{number}.JPG"
            files[path] = photograph(index % 7, image)
            table["images"].append({"id": number, "file_name": path})
            table["annotations"].insert(0, {"id": number, "image_id": number, "category_id": int(name[:4])})
    tables = {f"{part}.json": json.dumps(table).encode() for part, table in tables.items()}
    write(root / "fungi", files | tables)
    return root / "fungi"


def write_tiered(root, cut):
    """As all of ImageNet's training images: with a class that is in no split."""
    files = {
        f"{name}/{name}_{image}.JPEG": photograph(index, image)
        for index, name in enumerate([*classes_of(cut, "tiered_imagenet"), "n99999999"])
        for image in range(IMAGES)
    }
    write(root / "tiered_imagenet", {f"train/{path}": content for path, content in files.items()})
    return root / "tiered_imagenet"


WRITERS = {
    "CUB": write_cub,
    "FGVCAircraft": write_aircraft,
    "VGGFlowers": write_flowers,
    "DTD": write_dtd,
    "Fungi": write_fungi,
    "TieredImageNet": write_tiered,
}


def packed(folder, archive):
    """The archive of a folder under the folder's name, of the kind that its ending says."""
    if archive.suffix == ".zip":
        shutil.make_archive(str(archive.with_suffix("")), "zip", folder.parent, folder.name)
        return archive
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
        file.add(folder, folder.name)
    return archive
