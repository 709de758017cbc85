"""A working folder with images and checkpoints for each row of the tables, and what must hold of every refusal."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_rows import Bad
from own_images import ALGORITHMS, write_classes
from quiet_trainer import one_step_checkpoint
from random_images import write_image_folder

from fewshot_pl import algorithms
from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.cli import evaluate, export, predict, train
from fewshot_pl.data.image_store import open_store

_COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "export": export}
_DATA = {"root": "images", "image_size": 16, "num_ways": 3, "num_queries": 1, "num_test_episodes": 4}
_TRAINING = (
    "--data ImageFolder --data.root images --data.image_size 16 --data.num_ways 2 --data.num_queries 1 "
    "--data.batches_per_epoch 1 --data.num_val_episodes 2 --data.num_test_episodes 2 --trainer.max_epochs 1 "
    "--trainer.accelerator cpu"
)
_BEFORE = {  # each command's arguments; {0} is where a row's own go
    "train": f"{_TRAINING} {{0}}",
    "evaluate": "{0} --trainer.accelerator cpu --trainer.enable_progress_bar false",
    "predict": "--ckpt_path protonet.ckpt --support support --query query {0}",
    "export": "--ckpt_path protonet.ckpt {0}",
}
_INFORMATION = re.compile(r"Seed set|GPU avail|TPU avail|Packing|Restoring|\s*$")  # lines of Lightning and of ours


def _written_checkpoint(algorithm: str) -> None:
    torch.manual_seed(0)
    model = getattr(algorithms, algorithm)(image_shape=(3, 16, 16), **ALGORITHMS[algorithm])
    one_step_checkpoint(model, ImageFolder(**_DATA), f"{algorithm.lower()}.ckpt")


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, classes to learn from, images to label, and a checkpoint of ProtoNet and of MAML."""
    root = tmp_path_factory.mktemp("furnished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        patched.setenv("FEWSHOT_PL_CACHE", "cache")
        write_image_folder(Path("images"), num_classes=3, num_images=2, size=16)
        write_classes(Path("support"), {"red": 2, "green": 1}, size=20)
        write_classes(Path("query"), {"new": 2}, size=20)
        for algorithm in ("ProtoNet", "MAML"):
            _written_checkpoint(algorithm)
        shutil.rmtree("cache")
    return root


@pytest.fixture
def place(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``furnished``, as the working folder."""
    shutil.copytree(furnished, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("FEWSHOT_PL_CACHE", "cache")
    return tmp_path / "place"


@pytest.fixture
def answered(place: Path) -> Any:
    """The function from a command line to its exit code."""

    def answered(line: str) -> int:
        command, _, words = line.partition(" ")
        try:
            return _COMMANDS[command](shlex.split(_BEFORE[command].format(words)))
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            return stop.code

    return answered


@pytest.fixture
def check_refused(place: Path, answered: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Checks that a row's input is refused in one sentence, and that no file is added, removed or changed."""

    def check(bad: Bad) -> None:
        if bad.spoil is not None:
            bad.spoil()
        before = _everything(place)
        capsys.readouterr()
        assert answered(bad.line) == 2
        errors = capsys.readouterr().err.splitlines()
        (sentence,) = [line for line in errors if not _INFORMATION.match(line)]
        assert sentence.startswith("error: ") and bad.told in sentence
        assert not re.search(r"[.!?]\s+[A-Z]", sentence), "more than one sentence"
        assert "Errno" not in sentence and "Traceback" not in sentence and " object at 0x" not in sentence
        assert _kept(_everything(place)) == _kept(before)

    return check


def _kept(everything: dict[str, Any]) -> dict[str, Any]:
    """The files without locks, and complete stores of valid images."""
    indices = [Path(path) for path in everything if re.match(r"cache/.*index.json", path)]
    assert all(open_store(index.parent).num_classes for index in indices)
    stores = {index.parent for index in indices}
    locks = {Path(path) for path in everything if path.endswith(".lock")}  # kept, as others may wait for them
    folders = {Path("cache"), *stores, *locks, *(found.parent for found in {*stores, *locks})}
    whole = [path for path in everything if Path(path) in folders or Path(path).parent in stores]
    return {path: content for path, content in everything.items() if path not in whole}


def _everything(folder: Path) -> dict[str, Any]:
    """What is below a folder: the contents of files, the sizes of large ones, targets of links, None for the rest."""
    return {str(path.relative_to(folder)): _content(path) for path in folder.rglob("*")}


def _content(path: Path) -> Any:
    if path.is_symlink():
        return path.readlink()
    if not path.is_file():
        return None
    size = path.stat().st_size
    return path.read_bytes() if size < 1 << 20 else size
