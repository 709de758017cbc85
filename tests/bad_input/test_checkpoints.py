"""Checkpoints and further arguments that evaluate.py, predict.py, export.py and train.py refuse."""

import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_rows import Bad

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
CHECKPOINT = Path("protonet.ckpt")
NONE = "is not a checkpoint of fewshot_pl or is damaged"


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def holding(content: object) -> Callable[[], object]:
    return lambda: torch.save(content, CHECKPOINT)


def changed(**entries: Any) -> Callable[[], object]:
    """A function that replaces entries of the checkpoint, or removes those that are None."""

    def change() -> None:
        contents = {**torch.load(CHECKPOINT, weights_only=True), **entries}
        torch.save({name: value for name, value in contents.items() if value is not None}, CHECKPOINT)

    return change


def written(content: bytes) -> Callable[[], object]:
    return lambda: CHECKPOINT.write_bytes(content)


def cut() -> None:
    CHECKPOINT.write_bytes(CHECKPOINT.read_bytes()[: CHECKPOINT.stat().st_size // 2])


def compressed() -> None:
    """Compress the checkpoint, as a decompression bomb must be."""
    members = {}
    with zipfile.ZipFile(CHECKPOINT) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(CHECKPOINT, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def a_folder() -> None:
    CHECKPOINT.unlink()
    CHECKPOINT.mkdir()


def zipped_text() -> None:
    with zipfile.ZipFile(CHECKPOINT, "w") as archive:
        archive.writestr("notes.txt", "nothing")


def a_run() -> None:
    """Make a run whose configuration must stay as it is."""
    folder = Path("0/checkpoints")
    folder.mkdir(parents=True)
    CHECKPOINT.rename(folder / "best.ckpt")
    Path("maml.ckpt").rename(folder / "maml.ckpt")
    Path("0/config.yaml").write_text("of the run")


ONE = "evaluate --ckpt_path protonet.ckpt"
EVALUATED = {
    "missing": Bad("evaluate --ckpt_path missing.ckpt", "there is no checkpoint missing.ckpt"),
    "a name too long": Bad(f"evaluate --ckpt_path {'x' * 300}", "xxx"),
    "a folder": Bad(ONE, "there is no checkpoint protonet.ckpt", a_folder),
    "zero bytes": Bad(ONE, NONE, written(b"")),
    "a text": Bad(ONE, NONE, written(b"not a checkpoint")),
    "cut short": Bad(ONE, NONE, cut),
    "a zip archive of something else": Bad(ONE, NONE, zipped_text),
    "compressed": Bad(ONE, NONE, compressed),
    "with a payload": Bad(ONE, NONE, changed(state_dict={"weight": Payload()})),
    "with a payload and nothing else": Bad(ONE, NONE, holding(Payload())),
    "a tensor": Bad(ONE, "holds no algorithm", holding(torch.ones(3))),
    "of another library": Bad(ONE, "holds no algorithm", holding(OrderedDict(weight=torch.ones(3)))),
    "of another class": Bad(ONE, "holds no algorithm", changed(algorithm="ResNet")),
    "of an abstract class": Bad(ONE, "holds no algorithm", changed(algorithm="FewShotAlgorithm")),
    "of a class that is no name": Bad(ONE, "holds no algorithm", changed(algorithm=["ProtoNet"])),
    "of the wrong algorithm": Bad(ONE, "other arguments or weights", changed(algorithm="RelationNet")),
    "without weights": Bad(ONE, "has no state_dict", changed(state_dict=None)),
    "without arguments": Bad(ONE, "has no hyper_parameters", changed(hyper_parameters=None)),
    "with arguments of another version": Bad(
        ONE, "use the version of fewshot_pl", changed(hyper_parameters={"image_shape": (3, 16, 16), "magic": 3})
    ),
    "with weights of another version": Bad(ONE, "use the version of", changed(state_dict={"a": torch.ones(3)})),
    "with weights that are none": Bad(ONE, "use the version of fewshot_pl", changed(state_dict={"a": 3})),
    "without data": Bad(ONE, "does not say which data", changed(data=None)),
    "with data of code": Bad(ONE, "does not say which data", changed(data="os.system")),
    "with data of another version": Bad(ONE, "magic", changed(datamodule_hyper_parameters={"magic": 3})),
    "neither one nor several": Bad("evaluate", "pass either --ckpt_path"),
    "one to compare": Bad("evaluate --compare protonet.ckpt", "two or more different checkpoints"),
    "the same twice": Bad("evaluate --compare protonet.ckpt ./protonet.ckpt", "two or more different checkpoints"),
    "one to compare that is missing": Bad("evaluate --compare protonet.ckpt no.ckpt", "there is no checkpoint no.ckpt"),
    "other shapes to compare on": Bad("evaluate --compare protonet.ckpt maml.ckpt --data.image_size 20", "(3, 16, 16)"),
    "one way": Bad(f"{ONE} --ways 1", "--data.num_ways must be at least 2"),
    "more ways than classes": Bad(f"{ONE} --ways 3 9", "test needs at least 9"),
    "other ways than outputs": Bad("evaluate --ckpt_path maml.ckpt --ways 2", "pass --ways 3"),
    "more shots than images": Bad(f"{ONE} --shots 1 9", "needs 9 shots"),
    "no shots": Bad(f"{ONE} --shots 0", "--shots must be at least 1"),
    "a word for ways": Bad(f"{ONE} --ways few", "--ways takes"),
    "ways said twice": Bad(f"{ONE} --ways 3 --data.num_ways 3", "leave out one of them"),
    "fewer episodes than devices": Bad(
        f"{ONE} --num_episodes 1 --trainer.accelerator cpu --trainer.devices 2",
        "2 devices cannot share 1 episodes",
    ),
    "too small a part for one of two devices": Bad(
        f"{ONE} --num_episodes 72 --trainer.accelerator cpu --trainer.devices 2 --trainer.limit_test_batches 0.2",
        "--trainer.limit_test_batches 0.2 leaves nothing of the 4 batches of test that a device has: pass a larger",
    ),
    "no episodes": Bad(f"{ONE} --num_episodes 0", "must be at least 1"),
    "the training classes": Bad(f"{ONE} --split train", "--split takes one of 'test', 'val'"),
    "steps of what takes none": Bad(f"{ONE} --num_inner_steps 2", "without steps"),
    "fewer than no steps": Bad("evaluate --ckpt_path maml.ckpt --num_inner_steps -1", "steps"),
    "none of the episodes": Bad(f"{ONE} --trainer.limit_test_batches 0", "leave out --trainer.limit_test_batches 0"),
    "forked processes": Bad(
        f"{ONE} --trainer.strategy ddp_notebook --trainer.accelerator cpu --trainer.devices 2", "--trainer.strategy ddp"
    ),
    "output of no known kind": Bad(f"{ONE} --output results.txt", "must end in one of .json, .csv"),
    "a file for the report's folder": Bad(f"{ONE} --report maml.ckpt", "give --report another place"),
}
OTHERS = {
    "to predict: missing": Bad("predict --ckpt_path missing.ckpt", "there is no checkpoint missing.ckpt"),
    "to predict: with a payload": Bad("predict", NONE, changed(state_dict={"weight": Payload()})),
    "to predict: without data": Bad("predict", "nobody knows how its images are made", changed(data=None)),
    "to predict: data of another version": Bad("predict", "magic", changed(datamodule_hyper_parameters={"magic": 3})),
    "to predict: calibrated by another version": Bad("predict", "calibration", changed(rejections=[{"magic": 3}])),
    "to predict: calibrated by nonsense": Bad("predict", "calibration", changed(rejections=7)),
    "to export: missing": Bad("export --ckpt_path missing.ckpt", "there is no checkpoint missing.ckpt"),
    "to export: with a payload": Bad("export", NONE, changed(state_dict={"weight": Payload()})),
    "to export: what adapts": Bad("export --ckpt_path maml.ckpt", "adapts its weights to each task"),
    "to export: an unknown format": Bad("export --format tflite", "--format takes"),
    "to export: a file for the folder": Bad("export --output maml.ckpt", "give --output another place"),
    "to resume: missing": Bad("train --ckpt_path missing.ckpt", "there is no checkpoint missing.ckpt"),
    "to resume: no run": Bad("train --ckpt_path last", "start one without --ckpt_path"),
    "to resume: a folder": Bad("train --ckpt_path images", "there is no checkpoint images"),
    "to resume: another class": Bad("train --ckpt_path maml.ckpt", "holds a MAML: pass --model MAML"),
    "to resume: another benchmark": Bad(
        "train --ckpt_path 0/checkpoints/best.ckpt --data Glyphs", "pass --data ImageFolder to resume it", a_run
    ),
    "to resume: other ways": Bad(
        "train --ckpt_path 0/checkpoints/maml.ckpt --model MAML", "pass --data.num_ways 3, as in its training", a_run
    ),
    "to resume: another backbone": Bad(
        "train --ckpt_path 0/checkpoints/best.ckpt --model.backbone conv4-32",
        "pass --model.backbone conv4, as",
        a_run,
    ),
    "to resume: weights of another version": Bad(
        "train --ckpt_path protonet.ckpt", "use the version of fewshot_pl", changed(state_dict={"a": torch.ones(3)})
    ),
    "to resume: with a payload": Bad(
        "train --ckpt_path protonet.ckpt", NONE, changed(state_dict={"weight": Payload()})
    ),
    "to start from: with a payload": Bad(
        "train --model PLATIPUS --model.init_from protonet.ckpt", "is no checkpoint", changed(more=Payload())
    ),
    "to start from: no MAML": Bad("train --model PLATIPUS --model.init_from protonet.ckpt", "holds a ProtoNet"),
    "to start from: without weights": Bad(
        "train --model PLATIPUS --model.init_from protonet.ckpt", "is no checkpoint", changed(state_dict=7)
    ),
}


@pytest.mark.parametrize("bad", EVALUATED.values(), ids=EVALUATED)
def test_evaluated(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)
    assert not Path("ran").exists()


@pytest.mark.parametrize("bad", OTHERS.values(), ids=OTHERS)
def test_others(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)
    assert not Path("ran").exists()
