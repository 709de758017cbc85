"""BestCheckpoint: the checkpoint that validation chooses."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint, which saves when a validation has ended, and not only after the epoch's end.

    From there Lightning resumes exactly; from an epoch's end it leaves out what follows on it, as the step of a
    schedule that watches a figure, and with ``max_steps`` an epoch's episodes. Without validation it saves at the
    epoch's end.
    """

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        asked = self._save_on_train_epoch_end
        return not trainer.enable_validation if asked is None else asked
