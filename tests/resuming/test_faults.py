"""What a kill, a full disk, a damaged checkpoint and SLURM leave of a run, and how it resumes."""

import multiprocessing
import os
import resource
import signal

import pytest
import torch
from tiny_trainings import At, assert_same, last_checkpoint, state, told, trained

from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.cli import evaluate, train
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


@pytest.fixture
def flags(images, tmp_path):
    """The flags of a training of two epochs with four steps each."""
    values = {
        "data": "ImageFolder",
        "data.root": images,
        "data.cache_dir": images / "cache",
        "data.image_size": 16,
        "data.num_ways": 2,
        "data.num_queries": 1,
        "data.batches_per_epoch": 4,
        "data.num_val_episodes": 3,
        "data.num_test_episodes": 3,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "pictures": "none",
        "runs": tmp_path / "runs",
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "ImageFolder" / "ProtoNet" / "0"


@pytest.fixture
def meanwhile(monkeypatch):
    """A function that makes the next command act in a hook, when a number of steps have begun."""

    def planned(hook, num_batches, action):
        monkeypatch.setattr("fewshot_pl.training.cli.EpisodeRate", lambda: At(hook, num_batches, action))

    return planned


def killed(*arguments, **settings):
    """Train in a separate process, which kills itself."""
    process = multiprocessing.get_context("fork").Process(target=trained, args=arguments, kwargs=settings)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_after_a_kill_even_while_writing_it_goes_on_from_the_last_whole_checkpoint(images, tmp_path, monkeypatch):
    def killed_while_writing(checkpoint, file):
        file.write(b"half of it")
        file.flush()
        told(signal.SIGKILL)()

    whole, folder = tmp_path / "whole", tmp_path / "killed"
    trained(images, whole)
    with monkeypatch.context() as patched:
        plan = At("on_validation_start", 8, lambda: patched.setattr(torch, "save", killed_while_writing))
        killed(images, folder, callbacks=[plan])
    assert len(list(folder.rglob("*.part"))) == 1
    assert torch.load(last_checkpoint(folder), weights_only=True)["global_step"] == 4
    trained(images, folder, resume_from=last_checkpoint(folder))
    assert_same(state(folder), state(whole))
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_its_code_and_says_how_to_go_on(number, flags, run, meanwhile, capfd):
    meanwhile("on_train_batch_start", 6, told(number))
    before = signal.getsignal(signal.SIGINT)
    assert train(flags) == 128 + number
    told_user = capfd.readouterr().err.splitlines()[-1]
    assert "stopped training after step 6" in told_user and str(last_checkpoint(run)) in told_user
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 6
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(flags, run, meanwhile, capsys):
    meanwhile("on_before_optimizer_step", 6, lambda: [told(signal.SIGINT)() for _ in range(2)])
    assert train(flags) == 128 + signal.SIGINT
    assert capsys.readouterr().err.splitlines()[-1].startswith("Ctrl-C stopped the command before its end")
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_fast_development_run_names_no_checkpoint(number, flags, tmp_path, meanwhile, capfd):
    meanwhile("on_train_batch_start", 1, told(number))
    assert train([*flags, "--trainer.fast_dev_run", "2"]) == 128 + number
    told_user = capfd.readouterr().err
    assert "stopped the command before its end: what it had saved stays" in told_user and ".ckpt" not in told_user
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_full_disk_leaves_the_checkpoint_of_before(flags, run, meanwhile, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    meanwhile("on_train_batch_start", 6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1])))
    try:
        assert train(flags) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "error: no space left on disk to write" in capsys.readouterr().err
    assert opened_checkpoint(last_checkpoint(run))["global_step"] == 4
    assert {path.name for path in last_checkpoint(run).parent.iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("damage", ["cut short", "a bit"])
def test_a_damaged_last_checkpoint_is_passed_over(damage, flags, run, caplog):
    assert train(flags) == 0
    last = last_checkpoint(run)
    contents = bytearray(last.read_bytes())
    if damage == "a bit":
        contents[len(contents) // 2] ^= 1
    last.write_bytes(contents[:-1000] if damage == "cut short" else contents)
    assert train([*flags, "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 0
    messages = [message for message in caplog.messages if "is damaged" in message]
    assert len(messages) == 1 and str(last) in messages[0] and "best.ckpt" in messages[0]
    assert opened_checkpoint(last)["epoch"] == 2
    for file in last.parent.iterdir():
        file.write_bytes(b"")
    assert train([*flags, "--ckpt_path", "last"]) == 2
    with pytest.raises(InputError):
        opened_checkpoint(last)


@pytest.mark.parametrize(
    "mistake", ["--data.num_ways 7", "--trainer.limit_train_batches 7.5", "--model MAML --data.num_shots 3"]
)
def test_a_run_that_never_started_leaves_no_folder(mistake, flags, tmp_path):
    try:
        train([*flags, *mistake.split()])
    except Exception as error:
        assert "limit_train_batches" in str(error)
    assert not list((tmp_path / "runs").glob("**/*"))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM job whose requests are recorded in a file, and which may have been requeued."""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    job = {"JOB_ID": "1234", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    return lambda restarts: monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))


def test_slurm_queues_a_job_again_and_the_same_command_goes_on(flags, run, meanwhile, tmp_path, slurm, capsys):
    meanwhile("on_train_batch_start", 6, told(signal.SIGUSR1))
    assert train(flags) == 128 + signal.SIGUSR1
    assert "SLURM queues job 1234 again" in capsys.readouterr().err
    assert (tmp_path / "asked").read_text() == "requeue 1234\n"

    slurm(restarts=1)
    seen = []
    meanwhile("on_train_batch_start", 7, lambda: seen.append("step 7"))
    assert train(flags) == 0
    assert seen and torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 8
    assert [folder.name for folder in run.parent.iterdir()] == ["0"]


def test_a_job_that_resumed_a_checkpoint_goes_on_from_where_it_came_to(flags, run, meanwhile, slurm):
    assert train([*flags, "--trainer.max_epochs", "1"]) == 0
    first = last_checkpoint(run).rename(last_checkpoint(run).with_name("first.ckpt"))
    resume = [*flags, "--ckpt_path", str(first), "--trainer.max_epochs", "3"]
    meanwhile("on_train_batch_start", 6, told(signal.SIGUSR1))
    assert train(resume) == 128 + signal.SIGUSR1
    slurm(restarts=1)
    seen = []
    meanwhile("on_train_batch_start", 6, lambda: seen.append("step 6, again"))
    assert train(resume) == 0
    assert not seen and opened_checkpoint(last_checkpoint(run))["global_step"] == 12


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_test_and_saves_nothing_elsewhere(number, flags, run, meanwhile, slurm, tmp_path, capsys):
    meanwhile("on_test_batch_start", 8, told(number))
    assert train(flags) == 128 + number
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "stopped the test: pass --ckpt_path" in sentence
    assert ("SLURM queues job 1234 again" in sentence) == (tmp_path / "asked").exists() == (number == signal.SIGUSR1)
    assert not list(tmp_path.glob("*.ckpt"))
    slurm(restarts=1)
    meanwhile("on_test_batch_start", 8, None)
    assert train(flags) == 0
    assert (run / "results.json").is_file()


def test_a_checkpoint_of_another_program_in_the_working_directory_is_not_loaded(flags, run, slurm, tmp_path):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another program")
    assert train(flags) == 0
    assert evaluate(["--ckpt_path", str(last_checkpoint(run)), "--trainer.accelerator", "cpu"]) == 0
