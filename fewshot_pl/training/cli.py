"""TrainCLI: the flags of training, and the trainer, algorithm and benchmark that they configure."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import AsyncCheckpointIO, CheckpointIO
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from fewshot_pl import benchmarks
from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.callbacks import (
    DEFAULT_PICTURES,
    EpisodeRate,
    FiniteLoss,
    Nonfinite,
    PictureName,
    pictures,
    progress_bar,
)
from fewshot_pl.callbacks.ready_to_test import ReadyToTest
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.flags import FewShotArgumentParser, as_list, chosen_class, class_name
from fewshot_pl.process_group import check_processes
from fewshot_pl.registries import named_class
from fewshot_pl.resuming import (
    BestCheckpoint,
    LastCheckpoint,
    StopOnSignal,
    WholeCheckpoints,
    check_same_training,
    slurm,
)
from fewshot_pl.runs import CHECKPOINTS, checkpoint_to_resume, nearest_folder, new_run_folder, run_of_checkpoint
from fewshot_pl.tf32 import TF32_FLAG, allow_tf32
from fewshot_pl.training.checks import (
    check_finetuning,
    check_states,
    check_training,
    named_callbacks,
    warn_of_smaller_steps,
)
from fewshot_pl.training.finders import without_finders
from fewshot_pl.training.first_weights import remember_classes_of
from fewshot_pl.training.optimizers import accepted_arguments, replacement_sentence
from fewshot_pl.training.saved_config import configuration_text
from fewshot_pl.whole_files import save_text

_PICTURES: dict[str, Any] = {
    "nargs": "+",
    "type": PictureName,
    "default": DEFAULT_PICTURES,
    "help": "pictures that TensorBoard shows beside the figures, see docs/tensorboard.md",
}
_NONFINITE: dict[str, Any] = {
    "type": Nonfinite,
    "default": "stop",
    "help": "what to do at a step whose loss or gradient is nan or infinite: stop the training, or skip the step",
}
_DEFAULT_CLASSES = {"model": "ProtoNet", "data": "Glyphs"}
_DEFAULT_EPOCHS = 15
_SEED_HELP = "seed of the weights and of what training draws, a whole number; that of the episodes is --data.seed"
_MAX_EPOCHS_HELP = (
    f"stop after this many epochs; {_DEFAULT_EPOCHS} where neither this nor max_steps or max_time, nor a Timer, "
    "says when it ends; -1 for no end"
)


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
            save_config_callback=None,  # a run's folder has its configuration, wherever a logger writes
            trainer_defaults={"callbacks": [EpisodeRate(), progress_bar()]},
            load_from_checkpoint_support=False,  # the modules save their own plain hyper-parameters
            args=args if args is None else list(args),
            run=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Lightning's own flag also takes true, which becomes seed 0, and false, which becomes one that nobody knows.
        parser.add_argument("--seed_everything", type=int, default=0, help=_SEED_HELP)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path", type=str | None, help="checkpoint to resume training from; 'last': the newest run's"
        )
        parser.add_argument("--runs", type=str, default="runs", help="folder for all runs")
        parser.add_argument("--tf32", **TF32_FLAG)
        parser.add_argument("--pictures", **_PICTURES)
        parser.add_argument("--nonfinite", **_NONFINITE)
        next(one for one in parser._actions if one.dest == "trainer.max_epochs").help = _MAX_EPOCHS_HELP
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("data.image_shape", "model.init_args.image_shape", apply_on="instantiate")
        parser.link_arguments("data.pixel_range", "model.init_args.pixel_range", apply_on="instantiate")
        parser.link_arguments("data", "model.init_args.num_ways", compute_fn=_train_ways, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.words = words = sys.argv[1:] if args is None else list(args)
        chosen = {key: chosen_class(key, words, default) for key, default in _DEFAULT_CLASSES.items()}
        parser.set_defaults({"checkpoint.monitor": _benchmark_called(chosen["data"]).monitor})
        self.config = parser.parse_args([*(f"--{key}={name}" for key, name in chosen.items()), *words])
        if not _has_end(self.config.trainer):
            self.config.trainer.max_epochs = _DEFAULT_EPOCHS

    def before_instantiate_classes(self) -> None:
        allow_tf32(self.config.tf32)
        check_training(self.config, self.words)
        self.is_trial = bool(self.config.trainer.fast_dev_run)  # which leaves everything on the disk as it is
        data, model = (class_name(self.config[key]) for key in ("data", "model"))
        self.runs = Path(self.config.runs).expanduser()
        self.kept_folder = nearest_folder(self.runs)
        self.resume_from = checkpoint_to_resume(
            self.config.ckpt_path, self.runs / data / model, slurm.is_run_of_requeued_job
        )
        self.run_folder = run_of_checkpoint(self.resume_from) if self.resume_from else None
        self.config.ckpt_path = None  # the saved config starts a run from scratch

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        with accepted_arguments(self.config):
            super()._add_configure_optimizers_method_to_model(subcommand)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        flags = self.config_init.trainer
        if self.resume_from:
            flags.callbacks = without_finders(as_list(flags.callbacks), self.resume_from, self.model, self.datamodule)
            check_same_training(self.resume_from, self.model, self.datamodule)
        elif start := self.model.hparams.get("init_from"):
            remember_classes_of(start, self.datamodule)
        if self.config.optimizer:
            rank_zero_info(replacement_sentence(self.config))
        check_finetuning(as_list(flags.callbacks), self.model)
        check_states(as_list(flags.callbacks), self.config_init.checkpoint)
        self._add_callbacks(flags)
        logs_by_default = flags.logger in (None, True)
        if logs_by_default:
            kwargs["logger"] = False  # made below, as the Trainer may refuse its flags
        kwargs["plugins"] = _with_whole_checkpoints(as_list(flags.plugins))
        trainer = super().instantiate_trainer(**kwargs)
        check_processes(trainer)
        if not self.is_trial:
            warn_of_smaller_steps(trainer, self.datamodule)
        slurm.load_only_what_is_named(trainer)
        last = LastCheckpoint()
        saving = [] if self.is_trial else [last, StopOnSignal(last)]
        trainer.callbacks += [ReadyToTest(self.save_config), *saving]  # type: ignore[attr-defined]  # after all others
        folder = self.run_folder if self.is_trial else self._folder_of_run()
        for callback in trainer.checkpoint_callbacks:
            if folder and isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / CHECKPOINTS)  # Lightning would choose a folder of the logger
        if logs_by_default and folder and not self.is_trial:
            trainer.logger = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
        return trainer

    def _add_callbacks(self, flags: Any) -> None:
        """Add our callbacks to those that Trainer flags name; a user's progress bar replaces ours."""
        given = as_list(flags.callbacks)
        # First, so that what others average or keep after a step is no longer what a skipped one left.
        flags.callbacks = [FiniteLoss(self.config_init.nonfinite), *given, *pictures(self.config_init.pictures)]
        if flags.enable_progress_bar is False or any(isinstance(one, ProgressBar) for one in given):
            ours = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [one for one in ours if not isinstance(one, ProgressBar)]

    def _folder_of_run(self) -> Path:
        """The folder of the run that is resumed, or of a new one."""
        data, model = type(self.datamodule).__name__, type(self.model).__name__
        if getattr(rank_zero_only, "rank", 0) != 0:  # only the first process writes
            return self.run_folder or self.runs / data / model / "0"
        self.run_folder = self.run_folder or new_run_folder(self.runs, data, model)
        slurm.note_job(self.run_folder)
        return self.run_folder

    @rank_zero_only
    def save_config(self) -> None:
        """Write the whole configuration into the folder of the run; a fast development run saves none."""
        if self.run_folder and not self.is_trial:
            text = configuration_text(partial(self.parser.dump, skip_unset=False), self.config)
            save_text(text, self.run_folder / "config.yaml")


def _benchmark_called(name: str) -> type[EpisodicDataModule]:
    """The benchmark that ``--data`` names; the base class where there is none, which the parser then reports."""
    named = named_class(benchmarks, name)
    return named if named and issubclass(named, EpisodicDataModule) else EpisodicDataModule


def _has_end(trainer: Any) -> bool:
    """Whether the parsed Trainer flags say when training ends."""
    limits = trainer.max_epochs, trainer.max_time, None if trainer.max_steps == -1 else trainer.max_steps
    return "Timer" in named_callbacks(trainer) or any(limit is not None for limit in limits)


def _with_whole_checkpoints(plugins: list[Any]) -> list[Any]:
    """A user's plugins, plus WholeCheckpoints if none of them writes checkpoints in another way."""
    writers = [plugin for plugin in plugins if isinstance(plugin, CheckpointIO)]
    for plugin in writers:
        if isinstance(plugin, AsyncCheckpointIO) and plugin.checkpoint_io is None:
            plugin.checkpoint_io = WholeCheckpoints()
    return plugins if writers else [*plugins, WholeCheckpoints()]


def _train_ways(data: EpisodicDataModule) -> int:
    return data.train_size.num_ways
