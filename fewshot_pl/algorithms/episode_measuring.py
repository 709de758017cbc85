"""EpisodeMeasuring: the steps of validation and test, and the measures of their episodes."""

from abc import ABC, abstractmethod

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fewshot_pl.episode import Episode, check_episode
from fewshot_pl.metrics import EpisodeMeasures, episode_losses


class EpisodeMeasuring(LightningModule, ABC):
    """Measures the episodes of each validation and test, and logs the figures at its end."""

    measures: nn.ModuleDict  # EpisodeMeasures of ``val`` and of ``test``

    @abstractmethod
    def query_loss(self, logits: Tensor, query_y: Tensor) -> Tensor:
        """The mean loss [] of logits [T, N*Q, N] for labels [T, N*Q]."""

    @abstractmethod
    def class_log_probabilities(self, logits: Tensor) -> Tensor:
        """The log-probabilities [..., N] of the classes, from logits [..., N]."""

    # Lightning's hooks -------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._measures("val").reset()  # discards what an interrupted validation has counted

    def on_test_epoch_start(self) -> None:
        self._measures("test").reset()

    def validation_step(self, batch: Episode, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Episode, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluation_step(batch, "test")

    def predict_step(self, batch: Episode, batch_idx: int) -> Tensor:
        check_episode(batch)
        logits: Tensor = self(batch)
        return logits

    def on_validation_epoch_end(self) -> None:
        self._log_measures("val")

    def on_test_epoch_end(self) -> None:
        self._log_measures("test")

    def _evaluation_step(self, batch: Episode, stage: str) -> dict[str, Tensor]:
        check_episode(batch)
        outputs, measures = self(batch), self._measures(stage)
        losses = episode_losses(self.query_loss, outputs, batch.query_y)
        measures.loss.update(losses)
        if batch.is_regression:
            measures.regressed(outputs, batch.query_y)
        else:
            measures.classified(self.class_log_probabilities(outputs), batch.query_y)
        return {"loss": losses.mean(), "logits": outputs}

    def _log_measures(self, stage: str) -> None:
        measures = self._measures(stage)
        self.log_dict({f"{stage}/{name}": figure.float() for name, figure in measures.compute().items()})
        self.log(f"{stage}/num_episodes", float(measures.num_episodes()), logger=False)  # behind these figures
        measures.reset()

    def _measures(self, stage: str) -> EpisodeMeasures:
        measures = self.measures[stage]
        assert isinstance(measures, EpisodeMeasures)
        return measures
