"""Reading the self-contained checkpoints that ``train.py`` writes."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from fewshot_pl import algorithms
from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.errors import InputError, first_line
from fewshot_pl.registries import concrete_classes, imported_class
from fewshot_pl.whole_files import whole_file

_ENTRIES = {"hyper_parameters": dict, "state_dict": dict}


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
        InputError: the file is missing or damaged, or holds neither an algorithm of fewshot_pl nor a user-defined one.
    """
    path = existing_checkpoint(path)
    try:
        _check_whole(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on broken bytes torch may raise anything
        raise InputError(
            f"{path} is not a checkpoint of fewshot_pl or is damaged: give one that train.py wrote"
        ) from error
    if not isinstance(checkpoint, dict) or not _names_algorithm(checkpoint.get("algorithm")):
        raise InputError(f"{path} holds no algorithm of fewshot_pl: give a checkpoint that train.py wrote")
    for entry, kind in _ENTRIES.items():
        if not isinstance(checkpoint.get(entry), kind):
            raise InputError(f"{path} has no {entry}: give a checkpoint that train.py wrote")
    return checkpoint


def _names_algorithm(name: Any) -> bool:
    """Whether this is the name of an algorithm of fewshot_pl or of a user-defined class."""
    return isinstance(name, str) and (name in concrete_classes(algorithms) or _is_own(name))


def _is_own(name: str) -> bool:
    return "." in name  # see stored_name


def _check_whole(path: Path) -> None:
    """Raise BadZipFile if a checkpoint is corrupt or compressed (it might unpack to any size): torch checks neither."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()) or archive.testzip():
                raise zipfile.BadZipFile("compressed, or with a wrong checksum")


def amend_checkpoint(path: Path, entries: dict[str, Any]) -> None:
    """Add entries to a checkpoint's contents, replacing the file atomically."""
    with whole_file(path) as part:
        torch.save({**opened_checkpoint(path), **entries}, part)
        shutil.copymode(path, part)


def load_algorithm(path: str | Path, **changed: Any) -> FewShotAlgorithm:
    """The trained algorithm in a checkpoint, of any class, on the CPU and in evaluation mode.

    A class of your own has to be imported, or defined, before: a checkpoint imports no code.

    Args:
        path: the checkpoint.
        changed: arguments to be changed from those of training.

    Raises:
        InputError: as ``opened_checkpoint``, or the algorithm is user-defined and not imported, or has arguments that
            no checkpoint holds.
    """
    return algorithm_of(opened_checkpoint(path), **changed)


def algorithm_of(checkpoint: dict[str, Any], **changed: Any) -> FewShotAlgorithm:
    """As ``load_algorithm``, from the contents of a checkpoint."""
    algorithm = algorithm_class(checkpoint)
    try:
        model = algorithm(**{**checkpoint["hyper_parameters"], **changed})
        model.load_state_dict(checkpoint["state_dict"])
    except InputError:
        raise
    except Exception as error:  # foreign arguments or weights may raise anything
        cure = "use the version of fewshot_pl that wrote it, or train anew"
        if _is_own(checkpoint["algorithm"]):
            cure = f"load it in Python by {algorithm.__name__}.load_from_checkpoint, with the arguments left out"
        raise InputError(
            f"the checkpoint holds a {algorithm.__name__} with other arguments or weights than this version's "
            f"({first_line(error)}): {cure}"
        ) from error
    return model.eval()


def algorithm_class(checkpoint: dict[str, Any]) -> type[FewShotAlgorithm]:
    """The class of the algorithm in an opened checkpoint.

    Raises:
        InputError: it is user-defined and not imported.
    """
    name = checkpoint["algorithm"]
    found: type[FewShotAlgorithm] | None
    found = imported_class(FewShotAlgorithm, name) if _is_own(name) else getattr(algorithms, name)
    if found is None:
        raise InputError(
            f"the checkpoint holds a {name}, which is no algorithm of fewshot_pl, and a checkpoint imports no code: "
            f"if it is a class of yours, pass --model {name}, or import it first in Python"
        )
    return found


def data_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The saved state of the benchmark in an opened checkpoint; empty where there is none, as from older versions."""
    name = str(checkpoint.get("data"))
    state = next((held for key, held in checkpoint.items() if f".{name}".endswith(f".{key}")), None)
    return state if isinstance(state, dict) else {}
