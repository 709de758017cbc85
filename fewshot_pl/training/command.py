"""train.py: fit, choose by validation, test, save the result."""

import shlex
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.callbacks.finite_loss import uses_loss_scaler
from fewshot_pl.data.datamodule import EpisodicDataModule, Split
from fewshot_pl.data.device_shares import check_shares
from fewshot_pl.freed_memory import keep_freed_memory
from fewshot_pl.guard import guarded, within_memory
from fewshot_pl.prediction.calibration import calibrate, rejection_sentence
from fewshot_pl.process_group import are_started_by_others, num_devices
from fewshot_pl.results import print_result, result_of, save_result
from fewshot_pl.resuming import BestCheckpoint, slurm
from fewshot_pl.runs import remove_run
from fewshot_pl.training.cli import TrainCLI
from fewshot_pl.training.optimizers import with_optimizer
from fewshot_pl.training.settings_log import log_settings

_UNCHOSEN = (
    "No validation chose a checkpoint: the last weights are {used}, and not calibrated to call images unknown; for "
    "a choice, train an epoch of --data.batches_per_epoch steps or longer, and leave out --trainer.limit_val_batches, "
    "--trainer.check_val_every_n_epoch and --checkpoint.every_n_epochs"
)


@partial(guarded, places="--runs or --data.cache_dir")
def train(args: Sequence[str] | None) -> None:
    """Fit, pick the best checkpoint on validation, test it, print and save the result."""
    keep_freed_memory()
    started = time.monotonic()
    cli = TrainCLI(args)
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(model, FewShotAlgorithm) and isinstance(data, EpisodicDataModule)
    with within_memory(_memory_cure(model, data, trainer)), slurm.queued_again(trainer):
        _fit(cli)
        best = None if cli.is_trial else _best_checkpoint(trainer)
        if best:
            _load_weights(model, trainer, best)
        elif any(chooser.save_top_k for chooser in _choosers(trainer)) and not cli.is_trial:
            rank_zero_info(_UNCHOSEN.format(used="tested" if trainer.limit_test_batches else "kept"))
        tested = trainer.test(model, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return
    result: dict[str, Any] = {}  # stays empty if --trainer.limit_test_batches leaves nothing to test
    if tested:
        result = result_of(model, data, trainer, "test", time.monotonic() - started)
        result |= _repetition(cli, model)
        print_result(result)
    if cli.is_trial:
        print("A fast development run saves nothing")
    else:
        _save(cli, result, best)


def _save(cli: TrainCLI, result: dict[str, Any], best: str | None) -> None:
    """Save a result, calibrate when its model is to call an image unknown, and print where everything is.

    Args:
        cli: the CLI that has trained.
        result: the result; empty where nothing was tested.
        best: the checkpoint that validation chose, if any was kept.
    """
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert cli.run_folder is not None
    file = cli.run_folder / "results.json"
    if result:
        config = _saved_config(cli.run_folder)
        result = with_optimizer(result, config) | {"checkpoint": best, "config": config}
        save_result(result, file)  # so nothing that follows can lose it
    with within_memory(_memory_cure(model, data, trainer)):  # a Trainer leaves the model in main memory
        rates = calibrate(model.to(trainer.strategy.root_device), data, Path(best)) if best else None
    if rates:
        print(rejection_sentence(rates))
    if rates and result:
        save_result(result | {"unknown": rates}, file)
    print(f"Saved in {cli.run_folder}")
    if not result and file.is_file():
        print(f"{file} is from an earlier test: nothing was tested this time")
    if result:
        log_settings(trainer, result)


def _repetition(cli: TrainCLI, model: FewShotAlgorithm) -> dict[str, Any]:
    """What a result needs in addition to sizes, seeds and versions, so that its training can be repeated."""
    return {
        "training_seed": model.training_seed,
        "num_devices": cli.trainer.world_size,
        "num_threads": torch.get_num_threads(),  # another number splits and rounds sums differently
        "command": shlex.join(["train.py", *cli.words]),
    }


def _saved_config(run_folder: Path) -> Any:
    """The whole configuration of a run."""
    return yaml.safe_load((run_folder / "config.yaml").read_text("utf-8"))


def _fit(cli: TrainCLI) -> None:
    """Train; a new run that ends before its first step is removed."""
    try:
        limits: dict[Split, float] = {"val": cli.trainer.limit_val_batches, "test": cli.trainer.limit_test_batches}
        for split in [split for split, limit in limits.items() if limit]:
            check_shares(cli.datamodule, split, num_devices(cli.trainer), limits[split])
        if cli.trainer.is_global_zero and not are_started_by_others(cli.trainer):
            # Here one process reports what is missing, for all those that it will start.
            cli.datamodule.prepare_data()
            if limits["test"]:
                cli.datamodule.setup("test")
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.resume_from)
    except BaseException:
        if cli.run_folder and not cli.resume_from and cli.trainer.global_step == 0:
            remove_run(cli.run_folder, cli.kept_folder)
        raise


def _best_checkpoint(trainer: Trainer) -> str | None:
    """The checkpoint that validation chose; None where none was kept."""
    paths = [chooser.best_model_path for chooser in _choosers(trainer)]
    return (paths[0] or None) if paths else None


def _choosers(trainer: Trainer) -> list[BestCheckpoint]:
    """The callbacks that choose a checkpoint by a figure."""
    return [one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint) and one.monitor]


def _load_weights(model: FewShotAlgorithm, trainer: Trainer, path: str) -> None:
    """Give a model the weights in a checkpoint that were validated, and that anyone who opens it gets.

    Lightning would load its callbacks too, and one that averages weights then puts back those from before averaging.
    """
    checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
    rank_zero_info(f"Loaded model weights from the checkpoint at {path}")


def _memory_cure(model: FewShotAlgorithm, data: EpisodicDataModule, trainer: Trainer) -> str:
    """How to need less memory, in flags that the algorithm and the benchmark have."""
    # The gradient of a scaled loss is taken at the end of a step, so memory holds what all its tasks computed.
    unscaled = "--trainer.precision bf16-mixed and " if uses_loss_scaler(trainer) else ""
    fewer = (
        f"pass {unscaled}--model.task_chunk 1, or lower --data.tasks_per_batch or, for evaluations, "
        "--data.eval_tasks_per_batch"
    )
    recompute = ", or pass --model.recompute_inner_steps true" if "recompute_inner_steps" in model.hparams else ""
    return fewer + recompute + data.store_cure
