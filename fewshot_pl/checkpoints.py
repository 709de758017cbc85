"""Reading the self-contained checkpoints that ``train.py`` writes."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from fewshot_pl import algorithms
from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.errors import InputError
from fewshot_pl.whole_files import whole_file


def existing_checkpoint(path: str | Path) -> Path:
    """The path of a checkpoint file.

    Raises:
        InputError: there is no such file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no checkpoint {path}: give --ckpt_path a file like runs/<data>/<model>/0/checkpoints/best.ckpt"
        )
    return path


def opened_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint, read without running code from it.

    Raises:
        InputError: the file is missing, damaged, or no checkpoint of an algorithm of ours.
    """
    path = existing_checkpoint(path)
    try:
        with zipfile.ZipFile(path) as parts:  # torch does not compare the checksums
            if damaged := parts.testzip():
                raise zipfile.BadZipFile(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken bytes lead it to
        raise InputError(
            f"{path} is not a checkpoint of fewshot_pl or is damaged: give one that train.py wrote"
        ) from error
    if not isinstance(checkpoint, dict) or checkpoint.get("algorithm") not in algorithms.__all__:
        raise InputError(f"{path} holds no algorithm of fewshot_pl: give a checkpoint that train.py wrote")
    return checkpoint


def amend_checkpoint(path: Path, entries: dict[str, Any]) -> None:
    """Add entries to a checkpoint's contents; the file is there whole, before and after."""
    with whole_file(path) as part:
        torch.save({**opened_checkpoint(path), **entries}, part)
        shutil.copymode(path, part)


def load_algorithm(path: str | Path, **changed: Any) -> FewShotAlgorithm:
    """The trained algorithm in a checkpoint, whichever it is, on the CPU and in evaluation mode.

    Args:
        path: of the checkpoint.
        changed: arguments that are to be others than in training.

    Raises:
        InputError: as ``opened_checkpoint``.
    """
    return algorithm_of(opened_checkpoint(path), **changed)


def algorithm_of(checkpoint: dict[str, Any], **changed: Any) -> FewShotAlgorithm:
    """The same, of the contents of a checkpoint."""
    algorithm: type[FewShotAlgorithm] = getattr(algorithms, checkpoint["algorithm"])
    model = algorithm(**{**checkpoint["hyper_parameters"], **changed})
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()
