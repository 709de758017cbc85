"""ReadyToTest: reports what a test will lack before the training, not after it."""

from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer


class ReadyToTest(Callback):
    """Opens the test split before training starts, in every process: if only one failed, the others would wait for it.

    Args:
        then: called once nothing is missing, also in every process.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.datamodule.setup("test")  # type: ignore[attr-defined]
            self._then()
