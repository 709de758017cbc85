"""Episodes, a model and a training that take a moment."""

import fewshot_pl  # noqa: F401, I001  (before pytorch_lightning)

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from quiet_trainer import quiet_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode


def make_episode(num_ways=3, num_shots=2, num_queries=4, num_channels=1, num_tasks=2, size=8):
    """Random images; the classes are in order."""
    generator = torch.Generator().manual_seed(0)
    support_y, query_y = (torch.arange(num_ways).repeat_interleave(n) for n in (num_shots, num_queries))
    support_x, query_x = (
        torch.randn(num_tasks, len(labels), num_channels, size, size, generator=generator)
        for labels in (support_y, query_y)
    )
    return Episode(support_x, support_y.expand(num_tasks, -1), query_x, query_y.expand(num_tasks, -1))


class TinyModel(LightningModule):
    """A linear classifier with dropout, which makes a disturbed random state visible in its parameters."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(64, 3))

    def _step(self, batch, stage):
        logits = self.layer(batch.query_x.flatten(2))  # [T, N*Q, N]
        loss = F.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
        self.log(f"{stage}/loss", loss, batch_size=batch.num_tasks)
        self.log(f"{stage}/accuracy", (logits.argmax(-1) == batch.query_y).float().mean(), batch_size=batch.num_tasks)
        return {"loss": loss, "logits": logits}

    def training_step(self, batch, batch_idx):
        return self._step(batch, "train")

    def validation_step(self, batch, batch_idx):
        return self._step(batch, "val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Patterns(ImageDataModule):
    """5 noisy patterns with 6 images each, of which every quarter turn is a class of its own."""

    image_shape = (1, 16, 16)
    mean, std = (0.5,), (0.3,)

    def class_images(self, split):
        random = np.random.default_rng(["train", "val", "test"].index(split))
        for index in range(5):
            pattern = random.integers(0, 120, self.image_shape)
            yield f"{split}{index}", (pattern + random.integers(0, 135, (6, *self.image_shape))).astype(np.uint8)

    def source_fingerprint(self):
        return {"benchmark": "patterns"}

    def num_rotations(self, split):
        return 4


class Recorder:
    """A stand-in for a Trainer that only has a TensorBoardLogger, and counts the pictures added."""

    def __init__(self, folder, **changes):
        logger = TensorBoardLogger(folder)
        logger._experiment = SimpleNamespace(add_image=lambda *_, **__: self.added.append(1))
        self.added = []
        self.current_epoch, self.global_step, self.loggers = 0, 0, [logger]
        self.sanity_checking, self.is_global_zero = False, True
        vars(self).update(changes)


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture
def episode():
    return make_episode


@pytest.fixture
def patterns(tmp_path):
    """The benchmark Patterns with 3-way tasks, 3 training steps per epoch, and 10 validation and test episodes."""
    sizes = {"num_ways": 3, "num_shots": 2, "num_queries": 3, "eval_tasks_per_batch": 4, "batches_per_epoch": 3}
    lists = {"num_val_episodes": 10, "num_test_episodes": 10}
    return lambda **settings: Patterns(cache_dir=str(tmp_path / "cache"), **(sizes | lists | settings))


@pytest.fixture
def trainer(tmp_path):
    """A Trainer of 2 epochs on the CPU with these callbacks. Event files are in ``tmp_path``."""

    def trainer(*callbacks, **arguments):
        return quiet_trainer(*callbacks, **{"max_epochs": 2, "logger": TensorBoardLogger(tmp_path), **arguments})

    return trainer


@pytest.fixture
def fit(tmp_path):
    """The Trainer after training a TinyModel on 4 batches per epoch, 2 to validate. Event files are in ``tmp_path``."""

    def fit(*callbacks, max_epochs=2, **trainer_arguments):
        torch.manual_seed(0)
        defaults = {"logger": TensorBoardLogger(tmp_path), "num_sanity_val_steps": 1, "log_every_n_steps": 1}
        bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        arguments = {"max_epochs": max_epochs, "enable_progress_bar": bar, **defaults, **trainer_arguments}
        trainer = quiet_trainer(*callbacks, **arguments)
        trainer.fit(TinyModel(), *(DataLoader([make_episode()] * count, batch_size=None) for count in (4, 2)))
        return trainer

    return fit


@pytest.fixture
def events(tmp_path):
    """The event file that the training wrote, read back."""

    def events():
        accumulator = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"))
        accumulator.Reload()
        return accumulator

    return events
