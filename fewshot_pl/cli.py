"""The commands: what ``train.py`` and ``evaluate.py`` do."""

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from fewshot_pl import algorithms, benchmarks
from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.callbacks import EpisodePicture, EpisodeRate, progress_bar
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.errors import InputError
from fewshot_pl.flags import FewShotArgumentParser
from fewshot_pl.results import print_result, result_of, save_result
from fewshot_pl.runs import CHECKPOINTS, checkpoint_to_resume, existing_checkpoint, new_run_folder, run_of_checkpoint

_Command = Callable[[Sequence[str] | None], None]


def _command(run: _Command) -> Callable[[Sequence[str] | None], int]:
    """A command that answers bad input with one sentence and exit code 2."""

    def guarded(args: Sequence[str] | None = None) -> int:
        # Lightning prints an instance check of torch's that is its own to mend.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        try:
            run(args)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    return guarded


class TrainCLI(LightningCLI):
    """Lightning's CLI for any algorithm on any benchmark."""

    def __init__(self, args: Sequence[str] | None) -> None:
        super().__init__(
            FewShotAlgorithm,
            EpisodicDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=FewShotArgumentParser,
            parser_kwargs={"description": "Train a few-shot learner, test its best checkpoint, save the result."},
            save_config_kwargs={"overwrite": True},  # only a resumed run finds one
            seed_everything_default=0,
            trainer_defaults={"max_epochs": 20, "callbacks": [EpisodePicture(), EpisodeRate(), progress_bar()]},
            load_from_checkpoint_support=False,  # the modules save their own plain hyper-parameters
            args=list(sys.argv[1:] if args is None else args),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, help="resume from this checkpoint; 'last': the newest run's")
        parser.add_argument("--runs", type=str, default="runs", help="folder for all runs")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "model": {"class_path": "ProtoNet"},
                "data": {"class_path": "Omniglot"},
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.save_on_exception": True,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("data.image_shape", "model.init_args.image_shape", apply_on="instantiate")
        parser.link_arguments("data", "model.init_args.num_ways", compute_fn=_train_ways, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        data, model = (self.config[key].class_path.split(".")[-1] for key in ("data", "model"))
        runs = Path(self.config.runs)
        self.resume_from = None
        self.run_folder = None
        if self.config.ckpt_path:
            self.resume_from = checkpoint_to_resume(self.config.ckpt_path, runs, data, model)
            self.run_folder = run_of_checkpoint(self.resume_from)
        if self.run_folder is None and rank_zero_only.rank == 0:
            self.run_folder = new_run_folder(runs, data, model)
        if self.run_folder and self.config.checkpoint.dirpath is None:
            self.config.checkpoint.dirpath = str(self.run_folder / CHECKPOINTS)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.config_init.trainer.logger is None or self.config_init.trainer.logger is True:
            folder = self.run_folder or Path(self.config.runs)
            kwargs["logger"] = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
        return super().instantiate_trainer(**kwargs)


@_command
def train(args: Sequence[str] | None) -> None:
    """Fit, pick the best checkpoint on validation, test it, print and save the result."""
    started = time.monotonic()
    cli = TrainCLI(args)
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(model, FewShotAlgorithm) and isinstance(data, EpisodicDataModule)
    trainer.fit(model, datamodule=data, ckpt_path=cli.resume_from)
    best = None if trainer.fast_dev_run else trainer.checkpoint_callback.best_model_path
    metrics = trainer.test(model, datamodule=data, ckpt_path=best or None, verbose=False)[0]
    if not trainer.is_global_zero:
        return
    result = result_of(model, data, metrics, "test", time.monotonic() - started)
    print_result(result)
    if cli.run_folder:
        result["checkpoint"] = best
        save_result(result, cli.run_folder / "results.json")
        print(f"Saved in {cli.run_folder}")
    if isinstance(trainer.logger, TensorBoardLogger):
        parameters = {**result["data_parameters"], **result["model_parameters"], "algorithm": result["algorithm"]}
        trainer.logger.log_hyperparams(parameters, {"test/accuracy": result["accuracy"], "test/ci95": result["ci95"]})


@_command
def evaluate(args: Sequence[str] | None) -> None:
    """Evaluate a checkpoint on a fixed list of episodes, print and (with ``--output``) save the result."""
    started = time.monotonic()
    args = list(sys.argv[1:] if args is None else args)
    config, parser = _evaluation_config(args)
    seed_everything(0, verbose=False)
    made = parser.instantiate_classes(config)
    data, trainer = made.data, made.trainer
    model = _loaded_model(existing_checkpoint(config.ckpt_path))
    _check_image_shape(model, data)
    run = trainer.test if config.split == "test" else trainer.validate
    metrics = run(model, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        result = result_of(model, data, metrics, config.split, time.monotonic() - started)
        result["checkpoint"] = config.ckpt_path
        print_result(result)
        if config.output:
            Path(config.output).parent.mkdir(parents=True, exist_ok=True)
            save_result(result, Path(config.output))


def _evaluation_config(args: list[str]) -> tuple[Any, LightningArgumentParser]:
    """The parsed flags; those of ``--data`` default to what the checkpoint was trained with."""
    first = FewShotArgumentParser(add_help=False)
    first.add_argument("--ckpt_path", type=str | None)
    known, _ = first.parse_known_args([a for a in args if a not in ("-h", "--help")])
    checkpoint = _opened_checkpoint(existing_checkpoint(known.ckpt_path)) if known.ckpt_path else None

    parser = FewShotArgumentParser(description="Evaluate a checkpoint on a fixed list of episodes.")
    parser.add_argument("--config", action="config", help="YAML file with any of these flags")
    parser.add_argument("--ckpt_path", type=str, required=True, help="checkpoint of train.py")
    parser.add_argument("--num_episodes", type=int | None, help="length of the list of episodes; default as trained")
    parser.add_argument("--split", type=Literal["test", "val"], default="test", help="which classes to evaluate on")
    parser.add_argument("--output", type=str | None, help="JSON file to write the result to")
    parser.add_lightning_class_args(EpisodicDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({"trainer.logger": False, "trainer.enable_checkpointing": False})
    if checkpoint:
        known_data = {"class_path": checkpoint["data"], "init_args": dict(checkpoint["datamodule_hyper_parameters"])}
        parser.set_defaults({"data": known_data})
    config = parser.parse_args(args)
    if config.num_episodes is not None:
        name = f"num_{config.split}_episodes"
        config.data.init_args[name] = config.num_episodes
    return config, parser


def _opened_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, read without running code from it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken bytes lead it to
        raise InputError(f"{path} is not a checkpoint of fewshot_pl or is damaged: give one that train.py wrote") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("algorithm") not in algorithms.__all__:
        raise InputError(f"{path} holds no algorithm of fewshot_pl: give a checkpoint that train.py wrote")
    return checkpoint


def _loaded_model(path: Path) -> FewShotAlgorithm:
    algorithm: type[FewShotAlgorithm] = getattr(algorithms, _opened_checkpoint(path)["algorithm"])
    return algorithm.load_from_checkpoint(path, map_location="cpu", weights_only=True)


def _check_image_shape(model: FewShotAlgorithm, data: EpisodicDataModule) -> None:
    trained = tuple(model.hparams["image_shape"])
    if trained != tuple(data.image_shape):
        raise InputError(
            f"the checkpoint was trained on images of {trained} (channels, height, width) and {type(data).__name__} "
            f"gives {tuple(data.image_shape)}: pass --data.image_size {trained[1]} where the benchmark has it, or train anew"
        )


def _train_ways(data: EpisodicDataModule) -> int:
    return data.train_size.num_ways
