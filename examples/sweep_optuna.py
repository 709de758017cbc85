"""A hyper-parameter search with Optuna: each trial is a run of train.py, and any number of workers share one study.

    pip install optuna
    python examples/sweep_optuna.py --study runs/sweep.db --trials 10 --model MAML --data CIFARFS --trainer.max_epochs 5

Start the same command once for each device (``CUDA_VISIBLE_DEVICES=1 python ...``): the workers learn from each other's
trials through the file. All flags but the first two are train.py's. Edit ``suggested`` to change what is searched.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to run from a clone, as train.py does

from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.cli import train
from fewshot_pl.guard import guarded
from fewshot_pl.resuming import BestCheckpoint
from fewshot_pl.training.cli import TrainCLI

try:
    import optuna
except ModuleNotFoundError:
    sys.exit("error: a sweep needs Optuna: pip install optuna")
from filelock import FileLock  # which torch installs


def suggested(trial: optuna.Trial) -> dict[str, object]:
    """The flags that a trial varies, with its values; change them as you like."""
    return {
        "model.learning_rate": trial.suggest_float("model.learning_rate", 1e-4, 1e-2, log=True),
        "data.tasks_per_batch": trial.suggest_categorical("data.tasks_per_batch", [1, 2, 4]),
    }


def best_checkpoint(flags: Sequence[str]) -> BestCheckpoint:
    """The callback that chooses the best checkpoint of a training with these flags, with its figure and mode."""
    trial = TrainCLI([*flags, "--trainer.fast_dev_run", "true"])  # builds everything, and writes nothing
    return trial.config_init.checkpoint


def best_validation(flags: Sequence[str], folder: Path, chooser: BestCheckpoint) -> float:
    """The figure by which training with these flags chose its best checkpoint; the run is kept in ``folder``."""
    if exit_code := train([*flags, "--runs", str(folder)]):
        sys.exit(exit_code)  # the error has been printed
    (best,) = folder.glob("*/*/*/checkpoints/best.ckpt")
    return float(opened_checkpoint(best)["callbacks"][chooser.state_key]["best_model_score"])


@guarded
def main(args: Sequence[str] | None) -> None:
    """Run one worker's trials, and print the best trial of the whole study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="SQLite file that the workers share")
    parser.add_argument("--trials", type=int, default=10, help="number of trials of this worker")
    own, flags = parser.parse_known_args(args)
    chooser = best_checkpoint(flags)
    own.study.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{own.study}.lock"):  # two workers cannot make the file at once
        study = optuna.create_study(
            study_name="sweep",
            storage=f"sqlite:///{own.study}",
            direction={"max": "maximize", "min": "minimize"}[chooser.mode],
            load_if_exists=True,
        )

    def objective(trial: optuna.Trial) -> float:
        varied = [word for name, value in suggested(trial).items() for word in (f"--{name}", str(value))]
        try:
            return best_validation([*flags, *varied], own.study.with_suffix("") / str(trial.number), chooser)
        except SystemExit:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)  # otherwise it would count as running for ever
            raise

    study.optimize(objective, n_trials=own.trials)
    print(f"Best of {len(study.trials)} trials: {study.best_value:.4f} with {study.best_params}")


if __name__ == "__main__":
    sys.exit(main())
