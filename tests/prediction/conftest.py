"""Checkpoints of hardly trained models."""

import pytest
from own_images import ALGORITHMS
from pytorch_lightning import Trainer
from random_images import give_random_images

from fewshot_pl import algorithms, benchmarks


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Writes a checkpoint of an algorithm on a benchmark, after a step of training."""

    def written(algorithm="ProtoNet", data="CIFARFS", **settings):
        with monkeypatch.context() as patched:
            give_random_images(patched)
            module = getattr(benchmarks, data)(
                num_ways=3, num_shots=2, num_queries=2, cache_dir=str(tmp_path / "cache"), batches_per_epoch=1
            )
            model = getattr(algorithms, algorithm)(
                image_shape=module.image_shape, **{**ALGORITHMS[algorithm], **settings}
            )
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=1,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(model, datamodule=module)
        path = tmp_path / f"{algorithm}-{data}.ckpt"
        trainer.save_checkpoint(path)
        return path

    return written
