"""The commands: what ``train.py`` and ``evaluate.py`` do."""

import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

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
from fewshot_pl.evaluation import evaluate
from fewshot_pl.flags import FewShotArgumentParser, check_training, chosen_class
from fewshot_pl.freed_memory import keep_freed_memory
from fewshot_pl.guard import guarded, within_memory
from fewshot_pl.prediction.calibration import calibrate, told
from fewshot_pl.process_group import are_started_by_others
from fewshot_pl.results import figures_of, print_result, result_of, save_result
from fewshot_pl.resuming import (
    BestCheckpoint,
    LastCheckpoint,
    StopOnSignal,
    WholeCheckpoints,
    check_same_training,
    slurm,
)
from fewshot_pl.runs import CHECKPOINTS, checkpoint_to_resume, new_run_folder, remove_run, run_of_checkpoint
from fewshot_pl.tf32 import TF32_FLAG, allow_tf32
from fewshot_pl.whole_files import save_text

__all__ = ["TrainCLI", "evaluate", "train"]

_PICTURES: dict[str, Any] = {
    "nargs": "+",
    "type": PictureName,
    "default": DEFAULT_PICTURES,
    "help": "what TensorBoard shows beside figures, see docs/tensorboard.md",
}
_NONFINITE: dict[str, Any] = {
    "type": Nonfinite,
    "default": "stop",
    "help": "what to do at a step whose loss or gradient is nan or infinite: stop the training, or skip the step",
}
_DEFAULT_CLASSES = {"model": "ProtoNet", "data": "Glyphs"}


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
            seed_everything_default=0,
            trainer_defaults={"max_epochs": 15, "callbacks": [EpisodeRate(), progress_bar()]},
            load_from_checkpoint_support=False,  # the modules save their own plain hyper-parameters
            args=args if args is None else list(args),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path", type=str | None, help="resume from this checkpoint; 'last': the newest run's"
        )
        parser.add_argument("--runs", type=str, default="runs", help="folder for all runs")
        parser.add_argument("--tf32", **TF32_FLAG)
        parser.add_argument("--pictures", **_PICTURES)
        parser.add_argument("--nonfinite", **_NONFINITE)
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
        words = sys.argv[1:] if args is None else list(args)
        chosen = {key: chosen_class(key, words, default) for key, default in _DEFAULT_CLASSES.items()}
        benchmark = getattr(benchmarks, chosen["data"].split(".")[-1], EpisodicDataModule)
        parser.set_defaults(dict(zip(("checkpoint.monitor", "checkpoint.mode"), benchmark.monitor, strict=True)))
        self.config = parser.parse_args([*(f"--{key}={name}" for key, name in chosen.items()), *words])

    def before_instantiate_classes(self) -> None:
        allow_tf32(self.config.tf32)
        check_training(self.config)
        data, model = (self.config[key].class_path.split(".")[-1] for key in ("data", "model"))
        self.runs = Path(self.config.runs).expanduser()
        self.resume_from = checkpoint_to_resume(
            self.config.ckpt_path, self.runs / data / model, slurm.is_run_of_requeued_job
        )
        self.run_folder = run_of_checkpoint(self.resume_from) if self.resume_from else None
        self.config.ckpt_path = None  # the saved config starts a run from scratch

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.resume_from:
            check_same_training(self.resume_from, self.model, self.datamodule)
        trainer_config = self.config_init.trainer
        guard = FiniteLoss(self.config_init.nonfinite)
        trainer_config.callbacks = [*(trainer_config.callbacks or []), guard, *pictures(self.config_init.pictures)]
        if trainer_config.enable_progress_bar is False:
            ours = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [one for one in ours if not isinstance(one, ProgressBar)]
        logs_by_default = trainer_config.logger in (None, True)
        if logs_by_default:
            kwargs["logger"] = False  # made below, as the Trainer may refuse its flags
        plugins = trainer_config.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpoints()]
        trainer = super().instantiate_trainer(**kwargs)
        slurm.load_only_what_is_named(trainer)
        last = LastCheckpoint()
        ready = ReadyToTest(self.save_config)
        trainer.callbacks += [ready, last, StopOnSignal(last)]  # type: ignore[attr-defined]  # behind all others
        folder = self._folder_of_run()
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / CHECKPOINTS)  # Lightning's choice is a folder of the logger
        if logs_by_default:
            trainer.logger = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
        return trainer

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
        """Write the whole configuration into the folder of the run; a fast development run keeps none."""
        if self.run_folder and not self.config_init.trainer.fast_dev_run:
            save_text(self.parser.dump(self.config, skip_unset=False), self.run_folder / "config.yaml")


@partial(guarded, places="--runs or --data.cache_dir")
def train(args: Sequence[str] | None) -> None:
    """Fit, pick the best checkpoint on validation, test it, print and save the result."""
    keep_freed_memory()
    started = time.monotonic()
    cli = TrainCLI(args)
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(model, FewShotAlgorithm) and isinstance(data, EpisodicDataModule)
    with within_memory(_memory_cure(model, data)), slurm.queued_again(trainer):
        _fit(cli)
        best = _best_checkpoint(trainer)
        tested = trainer.test(model, datamodule=data, ckpt_path=best, verbose=False)
    if not trainer.is_global_zero:
        return
    assert cli.run_folder is not None
    file = cli.run_folder / "results.json"
    result: dict[str, Any] = {}  # stays so where --trainer.limit_test_batches leaves nothing to test on
    if tested:
        result = result_of(model, data, trainer, "test", time.monotonic() - started)
        result |= _repetition(cli, model, sys.argv[1:] if args is None else args)
        print_result(result)
        result |= {"checkpoint": best, "config": _saved_config(cli.run_folder)}
        save_result(result, file)  # nothing of what follows can lose it
    with within_memory(_memory_cure(model, data)):  # a Trainer leaves the model in main memory
        rates = calibrate(model.to(trainer.strategy.root_device), data, Path(best)) if best else None
    if rates:
        print(told(rates))
    if rates and result:
        save_result(result | {"unknown": rates}, file)
    print(f"Saved in {cli.run_folder}")
    if not result and file.is_file():
        print(f"{file} is of before: nothing was tested now")
    if result and isinstance(trainer.logger, TensorBoardLogger):
        parameters = {**result["data_parameters"], **result["model_parameters"], "algorithm": result["algorithm"]}
        trainer.logger.log_hyperparams(parameters, {f"test/{name}": result[name] for name in figures_of(result)})
        trainer.logger.experiment.flush()


def _repetition(cli: TrainCLI, model: FewShotAlgorithm, words: Sequence[str]) -> dict[str, Any]:
    """What else a result needs, beside the sizes, seeds and versions that any has, so that training can be repeated."""
    return {
        "training_seed": model.training_seed,
        "num_devices": cli.trainer.world_size,
        "num_threads": torch.get_num_threads(),  # sums of other parts are rounded in another way
        "command": shlex.join(["train.py", *words]),
    }


def _saved_config(run_folder: Path) -> Any:
    """The whole configuration of a run; None of a fast development run, which saves none."""
    file = run_folder / "config.yaml"
    return yaml.safe_load(file.read_text("utf-8")) if file.is_file() else None


def _fit(cli: TrainCLI) -> None:
    """Train; of a run that ends before its first step nothing is left."""
    try:
        if cli.trainer.is_global_zero and not are_started_by_others(cli.trainer):
            # Here one process says what is lacking, for all that it will start.
            cli.datamodule.prepare_data()
            cli.datamodule.setup("test")
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.resume_from)
    except BaseException:
        if cli.run_folder and not cli.resume_from and cli.trainer.global_step == 0:
            remove_run(cli.run_folder)
        raise


def _best_checkpoint(trainer: Trainer) -> str | None:
    """The checkpoint that validation chose; None where none was kept, as in a fast development run."""
    ours = [one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint) and one.monitor]
    return (ours[0].best_model_path or None) if ours else None


def _memory_cure(model: FewShotAlgorithm, data: EpisodicDataModule) -> str:
    """What to ask less memory by, in the flags that the algorithm and the benchmark have."""
    fewer = (
        "pass --model.task_chunk 1, or lower --data.tasks_per_batch or, for evaluations, --data.eval_tasks_per_batch"
    )
    recompute = ", or pass --model.recompute_inner_steps true" if "recompute_inner_steps" in model.hparams else ""
    return fewer + recompute + data.store_cure


def _train_ways(data: EpisodicDataModule) -> int:
    return data.train_size.num_ways
