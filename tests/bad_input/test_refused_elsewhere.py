"""Flags that only Lightning, torch or a missing package would refuse, and bugs that are not taken for them."""

import gc
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from bad_rows import Bad
from torch.optim import Adam

from fewshot_pl.algorithms import ProtoNet

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
ADAM = "train --optimizer Adam"
REFUSED_BY_OTHERS = {
    "no batches to a step": Bad("train --trainer.accumulate_grad_batches 0", "batches must be at least 1"),
    "validation after no epochs": Bad(
        "train --trainer.check_val_every_n_epoch 0", "at least 1, not 0: for no validation"
    ),
    "validation after no batches": Bad("train --trainer.val_check_interval 0", "--trainer.val_check_interval must be"),
    "validation after no part of an epoch": Bad("train --trainer.val_check_interval 0.0", "must be above 0"),
    "all devices of a CPU": Bad("train --trainer.devices -1", "should be an int > 0: pass another value"),
    "all devices of a CPU that evaluates": Bad(
        "evaluate --ckpt_path protonet.ckpt --trainer.devices -1", "should be an int > 0"
    ),
    "a negative learning rate of an optimiser": Bad(
        f"{ADAM} --optimizer.lr -1", "--optimizer Adam refuses its arguments (Invalid learning rate: -1.0): pass other"
    ),
    "no learning rate of an optimiser": Bad(f"{ADAM} --optimizer.lr null", "--optimizer Adam refuses its arguments"),
    "arguments that contradict each other": Bad(
        "train --optimizer SGD --optimizer.nesterov true", "Nesterov momentum requires a momentum"
    ),
    "an optimiser of matrices alone": Bad("train --optimizer Muon", "--optimizer Muon refuses its arguments"),
    "a schedule that starts again at once": Bad(
        f"{ADAM} --lr_scheduler CosineAnnealingWarmRestarts --lr_scheduler.T_0 0",
        "--lr_scheduler CosineAnnealingWarmRestarts refuses its arguments (Expected positive integer T_0, but got 0)",
    ),
    "a schedule that ends before the training": Bad(
        f"{ADAM} --lr_scheduler OneCycleLR --lr_scheduler.max_lr 1 --lr_scheduler.total_steps 1 --trainer.max_epochs 4",
        "would end after 1 of 4 epochs, as it takes one step in each: pass --lr_scheduler.total_steps 4",
    ),
    "an average of no known decay": Bad(
        "train --trainer.callbacks EMAWeightAveraging --trainer.callbacks.decay 2", "Invalid decay value 2.0"
    ),
    "fine-tuning of no backbone": Bad(
        "train --model MAML --trainer.callbacks BackboneFinetuning", "which MAML does not have: leave it out"
    ),
}
NOT_INSTALLED = {
    "wandb": "--trainer.logger WandbLogger",
    "mlflow": "--trainer.logger [MLFlowLogger]",
    "torch_xla": "--trainer.profiler xla",
    "torch_xla ": "--trainer.accelerator tpu",
    "transformer_engine": "--trainer.precision transformer-engine",
}


@pytest.mark.parametrize("bad", REFUSED_BY_OTHERS.values(), ids=REFUSED_BY_OTHERS)
def test_what_lightning_and_torch_refuse(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)


@pytest.mark.parametrize(("package", "flags"), NOT_INSTALLED.items(), ids=NOT_INSTALLED)
def test_flags_of_packages_that_are_not_installed(package: str, flags: str, check_refused: Any) -> None:
    package = package.strip()
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    check_refused(Bad(f"train {flags}", f"is not installed: pip install '{package}>="))
    gc.collect()  # what was made of a profiler: a warning of pytest's if that fails


def test_a_schedule_that_ends_before_a_training_of_open_end_keeps_checkpoints(answered: Any, capsys: Any) -> None:
    schedule = "--lr_scheduler OneCycleLR --lr_scheduler.max_lr 0.1 --lr_scheduler.total_steps 1"
    assert answered(f"{ADAM} {schedule} --trainer.max_epochs -1 --trainer.max_steps 4") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: Tried to step 2 times; The specified number of total steps is 1: pass another value"
    assert list(Path("runs").rglob("last.ckpt")) and list(Path("runs").rglob("best.ckpt"))


BUGS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a division": ("query_logits", lambda _: 1 // 0, "by zero"),
    "an attribute": ("query_logits", lambda self: self.backbon, "no attribute 'backbon'"),
    "a type": ("query_logits", lambda _: abs("one"), "bad operand type"),  # type: ignore[arg-type]
    "a value": ("query_logits", lambda _: int("one"), "invalid literal"),
    "a module": ("query_logits", lambda _: import_module("no_such_module"), "no_such_module"),
    "a call of Lightning": ("query_logits", lambda self: self.log(), "missing 2 required"),
    "an optimiser": ("configure_optimizers", lambda self: Adam(self.parameters(), lr=-1), "Invalid learning rate"),
    "an optimiser within a step": ("query_logits", lambda _: Adam([]), "empty parameter list"),
}


@pytest.mark.parametrize(("method", "bug", "told"), BUGS.values(), ids=BUGS)
def test_a_bug_of_an_algorithm_keeps_its_traceback(
    method: str, bug: Callable[[Any], Any], told: str, answered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProtoNet, method, lambda self, *_: bug(self))
    with pytest.raises((ArithmeticError, AttributeError, TypeError, ValueError, ImportError), match=told):
        answered("train")


def test_an_empty_folder_of_runs_stays_where_it_was_there_before(place: Path, answered: Any) -> None:
    Path("runs").mkdir()
    for folder in ("runs", "new/runs"):
        assert answered(f"train --runs {folder} --data.num_ways 9") == 2
    assert not list(Path("runs").iterdir()) and not Path("new").exists()
