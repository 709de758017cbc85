"""EpisodeRecorder: the figures of the single episodes of an evaluation, in the order of the list."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.data.datamodule import EpisodicDataModule, Split
from fewshot_pl.errors import InputError
from fewshot_pl.metrics import EpisodeMeasures, EpisodeRecords


class EpisodeRecorder(Callback):
    """Keeps the model's per-episode metrics before they are reset; does not change the steps."""

    def __init__(self) -> None:
        self.records: EpisodeRecords | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer, pl_module, "test")

    def _keep(self, trainer: Trainer, pl_module: LightningModule, split: Split) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, FewShotAlgorithm) and isinstance(data, EpisodicDataModule)
        measures = pl_module.measures[split]
        assert isinstance(measures, EpisodeMeasures)
        records, seen = measures.records(), torch.tensor(data.seen_order(split))
        if len(records.figures) != len(seen):
            raise InputError(
                "--compare and --report need every episode of the list: pass --num_episodes in place of "
                "--trainer.fast_dev_run or a --trainer.limit"
            )
        self.records = records.reordered(seen.argsort())
