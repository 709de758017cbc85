"""The benchmarks as folders of image files, which is how peers read them."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from throughput.setting import Setting, Task


def image_folder(setting: Setting, task: Task) -> Path:
    """<work>/files/<benchmark>/<class>/<image>.png of the training split, written on first use.

    The files hold what our store holds, without quarter turns, so that both sides read the same images.
    """
    folder = setting.work / "files" / task.benchmark
    if not folder.is_dir():
        partial = folder.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        store = setting.data(task).stores["train"]
        for index, name in enumerate(store.class_names):
            target = partial / f"{index:04}-{name.replace('/', '-')}"
            target.mkdir(parents=True)
            for number, image in enumerate(store.class_images(index)):
                _picture(image).save(target / f"{number:04}.png")
        partial.rename(folder)
    return folder


def image_dataset(setting: Setting, task: Task) -> ImageFolder:
    """torchvision's dataset of these files, as float tensors [C, H, W] in [0, 1]."""
    from torchvision import transforms

    steps = [transforms.Grayscale()] if task.image_shape[0] == 1 else []
    return ImageFolder(str(image_folder(setting, task)), transforms.Compose([*steps, transforms.ToTensor()]))


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
