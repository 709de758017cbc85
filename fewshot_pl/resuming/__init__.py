"""Training that can be stopped anywhere and resumes as if it had not been."""

from fewshot_pl.resuming.best_checkpoint import BestCheckpoint
from fewshot_pl.resuming.end_on_signal import EndOnSignal
from fewshot_pl.resuming.last_checkpoint import LastCheckpoint
from fewshot_pl.resuming.same_training import check_same_training
from fewshot_pl.resuming.stop_on_signal import StopOnSignal
from fewshot_pl.resuming.whole_checkpoints import WholeCheckpoints

__all__ = ["BestCheckpoint", "EndOnSignal", "LastCheckpoint", "StopOnSignal", "WholeCheckpoints", "check_same_training"]
