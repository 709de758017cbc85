"""The flags of ``evaluate.py``."""

import argparse
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytorch_lightning import Trainer

from fewshot_pl import algorithms, benchmarks
from fewshot_pl.checkpoints import algorithm_class, opened_checkpoint
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.errors import InputError
from fewshot_pl.evaluation.preparation import known_benchmarks, own_images_as
from fewshot_pl.flags import FewShotArgumentParser, chosen_class, given_flags, make_folder
from fewshot_pl.own_classes import OWN_ALGORITHM, import_classes
from fewshot_pl.registries import imported_class, named_class
from fewshot_pl.tf32 import TF32_FLAG

_OUTPUTS = (".json", ".csv")


class Request(NamedTuple):
    """What the command line asks for."""

    config: Any
    parser: FewShotArgumentParser
    checkpoints: dict[str, dict[str, Any]]  # contents by path, each read once; others are compared with the first


def request(args: list[str]) -> Request:
    """The parsed flags and opened checkpoints; ``--data`` defaults to what the first checkpoint was trained with.

    Raises:
        InputError: flags contradict each other, or a file is missing or of no known kind.
    """
    early = _known_before(args)
    import_classes(algorithms, early.model, "model")
    opened = {path: _opened(path) for path in [*early.compare, *early.ckpt_path][:1]}
    parser = _parser()
    for path, first in opened.items():
        parser.set_defaults({"data": _training_data(first, path, chosen_class("data", args, ""))})
    config = parser.parse_args(args)
    import_classes(algorithms, config.model, "model")  # those that a --config file names
    _check(config, args)
    checkpoints = {path: opened.get(path) or _opened(path) for path in config.compare or [config.ckpt_path]}
    if not config.data:
        raise InputError(_lack_of_data(next(iter(checkpoints.values())).get("data")))
    if config.num_episodes is not None:
        config.data.init_args[f"num_{config.split}_episodes"] = config.num_episodes
    return Request(config, parser, checkpoints)


def _opened(path: str) -> dict[str, Any]:
    algorithm_class(checkpoint := opened_checkpoint(path))  # raises at once if its class is not known
    return checkpoint


def _lack_of_data(name: Any) -> str:
    if not isinstance(name, str):
        return "the checkpoint does not say which data it was trained on: pass --data a benchmark's name"
    return (
        f"the checkpoint does not say which data of fewshot_pl it was trained on, but {name}, and imports no code: "
        "pass --data a benchmark's name, or that class if it is your own"
    )


def _known_before(args: list[str]) -> argparse.Namespace:
    """The flags that decide the defaults of others: ``ckpt_path``, ``compare`` and ``model``, each a list."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--ckpt_path", nargs=1, default=[])
    early.add_argument("--compare", nargs="*", default=[])
    early.add_argument("--model", nargs="*", default=[])
    return early.parse_known_args(args)[0]


def _parser() -> FewShotArgumentParser:
    parser = FewShotArgumentParser(description="Evaluate checkpoints on a fixed list of episodes.")
    parser.add_argument("--ckpt_path", type=str | None, help="checkpoint that train.py wrote")
    parser.add_argument("--compare", type=str, nargs="+", help="checkpoints to evaluate on the same episodes")
    parser.add_argument("--model", type=str, nargs="+", default=[], help=OWN_ALGORITHM)
    parser.add_argument("--ways", type=int, nargs="+", help="classes per task, one evaluation for each number")
    parser.add_argument("--shots", type=int, nargs="+", help="support images per class, likewise")
    parser.add_argument("--num_episodes", type=int | None, help="number of episodes; default: as in training")
    parser.add_argument("--split", type=Literal["test", "val"], default="test", help="which classes to evaluate on")
    parser.add_argument(
        "--num_inner_steps", type=int | None, help="inner steps of algorithms that take them; default: the checkpoint's"
    )
    parser.add_argument(
        "--per_query",
        type=bool | None,
        help="put each query in its own batch with the support (Reptile, norm transductive); default: the checkpoint's",
    )
    parser.add_argument("--output", type=str | None, help="file.json or file.csv to write the results to")
    parser.add_argument("--report", type=str | None, help="folder for a page with pictures, report.html")
    parser.add_argument("--latex", action="store_true", help="also print the results as rows of a LaTeX table")
    parser.add_argument("--tf32", **TF32_FLAG)
    parser.add_lightning_class_args(EpisodicDataModule, "data", subclass_mode=True, required=False)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({"trainer.logger": False, "trainer.enable_checkpointing": False})
    return parser


def _training_data(checkpoint: dict[str, Any], path: str, chosen: str) -> dict[str, Any] | None:
    """The benchmark of a training, as flags; a user-defined one only if a flag has named it and so imported it.

    Where ImageFolder is ``chosen``, a flag's value, its images are made as those of the training.
    """
    name, arguments = checkpoint.get("data"), checkpoint.get("datamodule_hyper_parameters")
    wanted = named_class(benchmarks, chosen)
    if wanted is benchmarks.ImageFolder and name != wanted.__name__ and (trained := known_benchmarks(checkpoint, path)):
        return {"class_path": f"{benchmarks.__name__}.{wanted.__name__}", "init_args": own_images_as(trained[0])}
    if name in benchmarks.__all__:
        class_path = f"{benchmarks.__name__}.{name}"  # a user-defined one may have the same name
    elif imported_class(EpisodicDataModule, name):
        class_path = str(name)
    else:
        return None
    return {"class_path": class_path, "init_args": dict(arguments)} if isinstance(arguments, dict) else None


def _check(config: Any, args: list[str]) -> None:
    _check_checkpoints(config)
    if config.trainer.barebones:
        raise InputError("with --trainer.barebones Lightning keeps no figure of an evaluation: leave it out")
    given = given_flags(args)
    for name in ("ways", "shots"):
        if config[name] and f"--data.num_{name}" in given:
            raise InputError(f"--{name} and --data.num_{name} say the same thing: leave out one of them")
        if min(config[name] or [1]) < 1:
            raise InputError(f"--{name} must be at least 1, not {min(config[name])}")
    if config.output and Path(config.output).suffix not in _OUTPUTS:
        raise InputError(f"--output {config.output} must end in one of {', '.join(_OUTPUTS)}")
    for flag, folder in (("report", config.report), ("output", config.output and Path(config.output).parent)):
        if folder:
            make_folder(Path(folder).expanduser(), flag)


def _check_checkpoints(config: Any) -> None:
    if bool(config.ckpt_path) == bool(config.compare):
        raise InputError("pass either --ckpt_path with the checkpoint to evaluate, or --compare with two or more")
    different = {Path(path).expanduser().resolve() for path in config.compare or []}
    if config.compare and len(different) < max(2, len(config.compare)):
        raise InputError("--compare takes two or more different checkpoints: name each once")
