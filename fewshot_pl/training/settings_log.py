"""The settings of a run beside its test figures, in TensorBoard."""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from fewshot_pl.results import figures_of


def log_settings(trainer: Trainer, result: dict[str, Any]) -> None:
    """Write a result's settings for TensorBoard's table of runs, with the names of the figures to show there.

    The Trainer has logged the figures themselves. TensorBoardLogger.log_hyperparams would log them a second time.

    Args:
        trainer: the Trainer that has tested.
        result: the result, with ``data_parameters`` and ``model_parameters``.
    """
    parameters = {**result["data_parameters"], **result["model_parameters"], "algorithm": result["algorithm"]}
    written = {
        name: value if isinstance(value, bool | int | float) else str(value) for name, value in parameters.items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""
            figures = {f"{prefix}test/{name}": result[name] for name in figures_of(result)}
            writer = logger.experiment._get_file_writer()
            for summary in hparams(written, figures):  # type: ignore[no-untyped-call]
                writer.add_summary(summary, trainer.global_step)
            logger.experiment.flush()
