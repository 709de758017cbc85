"""Benchmarks of random images, so that a test reads and downloads nothing (``pythonpath`` makes this importable)."""

import numpy as np
from PIL import Image

from fewshot_pl import benchmarks
from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.data.datamodule import SPLITS
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_store import ImageStore

# Flags of a training, validation and test of one batch each.
ONE_SMALL_BATCH = [
    *("--trainer.fast_dev_run=1", "--data.tasks_per_batch=1", "--data.eval_tasks_per_batch=1"),
    *("--data.num_queries=2", "--data.train_num_queries=2"),  # miniImageNet 20-way with 15 takes gigabytes
    *("--data.num_val_episodes=1", "--data.num_test_episodes=1"),  # with many, all images would be embedded first
]


def give_random_images(monkeypatch, num_classes=20, num_images=20):
    """For one test, let every image benchmark except ImageFolder hold random images of its shape in each split."""

    def class_images(self, split):
        generator = np.random.default_rng(SPLITS.index(split))
        for name in range(num_classes):
            yield str(name), generator.integers(0, 256, (num_images, *self.image_shape), dtype=np.uint8)

    for name in benchmarks.__all__:
        benchmark = getattr(benchmarks, name)
        if issubclass(benchmark, ImageDataModule) and benchmark is not ImageFolder:
            monkeypatch.setattr(benchmark, "class_images", class_images)
            monkeypatch.setattr(benchmark, "source_fingerprint", lambda self: {})


def write_image_folder(root, num_classes=5, num_images=3, size=10, width=None):
    """Random images for ImageFolder, square unless a width is given: ``root/{train,val,test}/<class>/<number>.png``."""
    generator = np.random.default_rng(0)
    for split in SPLITS:
        for name in range(num_classes):
            folder = root / split / f"{split}{name}"
            folder.mkdir(parents=True)
            for number in range(num_images):
                pixels = generator.integers(0, 256, (size, width or size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def a_store(counts):
    """A store of classes with ``counts`` images, of 2 x 2 pixels that hold the image's number modulo 256."""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    numbers = np.arange(starts[-1]).astype(np.uint8)
    images = numbers[:, None, None, None].repeat(2, 2).repeat(2, 3)  # [I, 1, 2, 2]
    return ImageStore(images, tuple(f"class{index}" for index in range(len(counts))), starts)
