"""The command ``evaluate.py``."""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer, seed_everything

from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.device_shares import check_shares
from fewshot_pl.errors import InputError
from fewshot_pl.evaluation.contestants import Contestant, check_fit, contestants, warn_of_unfair_classes
from fewshot_pl.evaluation.files import latex, save_outcomes
from fewshot_pl.evaluation.flags import request
from fewshot_pl.evaluation.outcome import (
    Outcome,
    caption,
    difference_sentence,
    is_comparison,
    paired_difference,
    table_rows,
    title,
)
from fewshot_pl.evaluation.preparation import normalised_as
from fewshot_pl.evaluation.recorder import EpisodeRecorder
from fewshot_pl.evaluation.report import write_report
from fewshot_pl.flags import as_list, given_flags
from fewshot_pl.freed_memory import keep_freed_memory
from fewshot_pl.guard import guarded, within_memory
from fewshot_pl.process_group import check_processes, num_devices
from fewshot_pl.registries import stored_name
from fewshot_pl.results import print_table, result_of
from fewshot_pl.resuming import EndOnSignal, slurm
from fewshot_pl.tf32 import allow_tf32


@partial(guarded, places="--output, --report or --data.cache_dir")
def evaluate(args: Sequence[str] | None) -> None:
    """Evaluate checkpoints on fixed lists of episodes, print the results, and save them where flags ask for it."""
    keep_freed_memory()
    words = list(sys.argv[1:] if args is None else args)
    config, parser, checkpoints = request(words)
    allow_tf32(config.tf32)
    seed_everything(0, verbose=False)
    made = parser.instantiate(config)
    recorder = EpisodeRecorder() if config.compare or config.report else None
    trainer = Trainer(**_with_callbacks(made.trainer, recorder))
    check_processes(trainer)
    slurm.load_only_what_is_named(trainer)
    models = contestants(checkpoints, config.num_inner_steps, config.per_query)
    if "--data.normalise" in given_flags(words):  # for all alike
        models = [contestant._replace(trained=()) for contestant in models]
    cells = grid(made.data, config.ways, config.shots)
    limit = trainer.limit_test_batches if config.split == "test" else trainer.limit_val_batches
    check_shares(made.data, config.split, num_devices(trainer), limit)
    check_fit(models, cells, bool(config.ways), "test" if config.split == "test" else "validate")
    warn_of_unfair_classes(models, made.data, config.split)
    if config.compare and trainer.is_global_zero:
        _note_other_data(models, stored_name(type(made.data)))
    outcomes = [outcome for data in cells for outcome in _compared(trainer, models, data, config.split, recorder)]
    if trainer.is_global_zero:
        _publish(outcomes, config)


def grid(data: EpisodicDataModule, ways: Sequence[int] | None, shots: Sequence[int] | None) -> list[EpisodicDataModule]:
    """The benchmark in each given size, ways varying slowest, over the same images in memory; itself if none is given.

    Raises:
        InputError: the benchmark itself sets a given size, or draws tasks that differ in size.
    """
    asked = {name: dict.fromkeys(values) for name, values in (("num_ways", ways), ("num_shots", shots)) if values}
    if not asked:
        return [data]
    if data.is_variable:
        flags = " and ".join(name.replace("num_", "--") for name in asked)
        raise InputError(f"tasks differ in ways and shots: leave out {flags}, or pass --data.sampling fixed")
    for name in data.preset:
        if name in asked:
            flag = name.replace("num_", "--")
            raise InputError(f"{type(data).__name__} decides {name} for itself: leave out {flag}")
    return [data.sized(**dict(zip(asked, sizes, strict=True))) for sizes in product(*asked.values())]


def _note_other_data(models: Sequence[Contestant], data: str) -> None:
    for contestant in models:
        if contestant.trained_on != data:
            print(f"{contestant.label} was trained on {contestant.trained_on}; all are evaluated on {data}")


def _with_callbacks(trainer: Any, recorder: EpisodeRecorder | None) -> dict[str, Any]:
    ours = [*([recorder] if recorder else []), EndOnSignal()]
    return {**trainer, "callbacks": [*as_list(trainer.callbacks), *ours]}


def _compared(
    trainer: Trainer,
    models: Sequence[Contestant],
    data: EpisodicDataModule,
    split: str,
    recorder: EpisodeRecorder | None,
) -> Iterator[Outcome]:
    """The outcomes of models on the same episodes, all but the first with their difference from it."""
    first: Outcome | None = None
    for contestant in models:
        outcome = _outcome(trainer, contestant, data, split, recorder)
        yield outcome._replace(difference=paired_difference(outcome, first)) if first else outcome
        first = first or outcome


def _outcome(
    trainer: Trainer, contestant: Contestant, data: EpisodicDataModule, split: str, recorder: EpisodeRecorder | None
) -> Outcome:
    started = time.monotonic()
    seed_everything(0, verbose=False)  # each as if it were the only one
    if recorder:
        recorder.records = None  # of the previous model
    run = trainer.test if split == "test" else trainer.validate
    cure = f"lower --data.eval_tasks_per_batch{data.store_cure}"
    with within_memory(cure), normalised_as(contestant.trained, data):
        measured = run(contestant.model, datamodule=data, verbose=False)
    if not measured:
        flag = "--trainer.limit_test_batches" if split == "test" else "--trainer.limit_val_batches"
        raise InputError(f"there is no batch of episodes to evaluate on: leave out {flag} 0")
    result = result_of(contestant.model, data, trainer, split, time.monotonic() - started)
    result["checkpoint"] = contestant.path
    return Outcome(contestant.label, result, data, recorder.records if recorder else None)


def _publish(outcomes: Sequence[Outcome], config: Any) -> None:
    rows = table_rows(outcomes)
    if is_comparison(outcomes):  # to fit a terminal's 80 columns; files have them all
        rows = [{name: cell for name, cell in row.items() if name != "Brier"} for row in rows]
    print_table(title(outcomes), caption(outcomes), rows)
    for outcome in outcomes:
        if outcome.difference:
            print(difference_sentence(outcome))
    if config.latex:
        print(latex(outcomes))
    if config.output:
        save_outcomes(outcomes, Path(config.output).expanduser())
    if config.report:
        print(f"Report: {write_report(outcomes, Path(config.report).expanduser())}")
