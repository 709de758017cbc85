"""Too little memory, a full disk and signals become one sentence with the cure; other errors stay as they are."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import errno
import multiprocessing
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from tiny_trainings import told

from fewshot_pl import Glyphs, cli
from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.guard import guarded, within_memory
from fewshot_pl.training.command import _memory_cure

CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 GiB is free."


def raised(error):
    def raising():
        raise error

    return raising


SHORTAGES = {
    "cuda": (raised(torch.cuda.OutOfMemoryError(CUDA)), "2.50 GiB"),
    "cudnn": (raised(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), None),
    "cublas": (raised(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")), None),
    "cuda, no class": (raised(RuntimeError("CUDA error: out of memory")), None),
    "python": (lambda: bytearray(sys.maxsize), None),
    "torch, really": (lambda: torch.empty(2**54, dtype=torch.uint8), "18014398509481984 bytes"),
    "numpy, really": (lambda: np.ones(2**50), "8.00 PiB"),
}


@pytest.mark.parametrize("shortage", SHORTAGES)
@pytest.mark.parametrize("has_cure", [True, False])
def test_too_little_memory_is_one_sentence(shortage, has_cure, capsys):
    run, amount = SHORTAGES[shortage]

    @guarded
    def command(args):
        if has_cure:
            with within_memory("lower --this"):
                run()
        run()

    assert command([]) == 2
    lack = f"out of memory: {amount} more did not fit" if amount else "out of memory"
    cure = "lower --this" if has_cure else "ask for less at once, as by --data.eval_tasks_per_batch or --batch_size"
    assert capsys.readouterr().err == f"error: {lack}: {cure}\n"


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("memory")])
def test_other_errors_are_not_taken_for_it(error):
    @guarded
    def command(args):
        with within_memory("lower --this"):
            raise error

    with pytest.raises(type(error)):
        command([])


@pytest.mark.parametrize(("algorithm", "recomputes"), [(ProtoNet, False), (MAML, True)])
def test_training_names_the_flags_that_the_algorithm_has(algorithm, recomputes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: torch.empty(2**54, dtype=torch.uint8))
    model = ["--model", algorithm.__name__, "--runs", str(tmp_path), "--trainer.accelerator", "cpu"]
    assert cli.train(model) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    for flag in ("--model.task_chunk 1", "--data.tasks_per_batch", "--data.eval_tasks_per_batch"):
        assert flag in sentence
    assert ("--model.recompute_inner_steps true" in sentence) == recomputes
    assert sentence.endswith(", or on a GPU pass --data.store host")
    assert cli.train([*model, "--data.store=host"]) == 2
    assert "--data.store" not in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "is_scaled"), [("16-mixed", True), ("bf16-mixed", False), ("32-true", False)])
def test_a_scaled_loss_is_named_as_what_fills_the_memory(precision, is_scaled):
    plugin = MixedPrecision(precision, "cpu") if precision.endswith("mixed") else Precision()
    cure = _memory_cure(ProtoNet(), Glyphs(), SimpleNamespace(precision_plugin=plugin))
    assert cure.startswith("pass --trainer.precision bf16-mixed and --model.task_chunk 1, or lower") == is_scaled
    assert ("bf16-mixed" in cure) == is_scaled


def test_a_full_disk_is_said_with_the_flags_that_the_command_has(capsys):
    full = raised(OSError(errno.ENOSPC, "No space left on device", "labels.csv"))
    assert guarded(lambda _: full(), places="--output")([]) == 2
    sentence = "no space left on disk to write labels.csv: free some, or pass --output a place on another disk"
    assert capsys.readouterr().err == f"error: {sentence}\n"


def exits_as_lightning():
    try:
        told(signal.SIGINT)()
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_any_command_in_one_sentence(number, capsys):
    before = signal.getsignal(number)
    assert guarded(lambda _: told(number)())([]) == 128 + number
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert capsys.readouterr().err == f"{name} stopped the command before its end: what it had saved stays\n"
    assert signal.getsignal(number) is before


def test_an_exit_that_is_lightnings_answer_to_ctrl_c_is_taken_for_it():
    @guarded
    def command(args):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exits_as_lightning()

    assert command([]) == 128 + signal.SIGINT
    with pytest.raises(SystemExit):
        guarded(lambda _: sys.exit(2))([])


@pytest.fixture
def no_handler_of_before():
    """SIGTERM ends this process, whatever handler an earlier training left."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_process_that_a_command_forks_answers_signals_as_without(capsys, no_handler_of_before):
    @guarded
    def command(args):
        process = multiprocessing.get_context("fork").Process(target=told(signal.SIGTERM))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGTERM

    assert command([]) == 0
    assert capsys.readouterr().err == ""


COMMANDS = """
import atexit
from fewshot_pl.guard import guarded
from torch import distributed

def run(_):
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

atexit.register(lambda: print("at the very end:", distributed.is_initialized()))
command = guarded(run)
print([command([]), distributed.is_initialized(), command([])])
"""


def test_a_process_leaves_its_group_at_its_end_and_not_between_commands():
    ended = subprocess.run([sys.executable, "-c", COMMANDS], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["[0, True, 0]", "at the very end: False"]
