"""The command ``predict.py``: labels images by the classes in a folder, as a table and as an HTML page."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from fewshot_pl.data.square_image import plain_colour
from fewshot_pl.errors import InputError
from fewshot_pl.flags import FewShotArgumentParser, make_folder
from fewshot_pl.freed_memory import keep_freed_memory
from fewshot_pl.guard import guarded, within_memory
from fewshot_pl.own_classes import add_own_classes, import_own_classes
from fewshot_pl.prediction.calibration import FALSE_REJECT
from fewshot_pl.prediction.files import query_files, support_classes
from fewshot_pl.prediction.labels import sorted_label, write_labels
from fewshot_pl.prediction.predictor import FewShotPredictor
from fewshot_pl.prediction.report import Shown, report, thumbnail_uri
from fewshot_pl.whole_files import save_text


@partial(guarded, places="--output")
def predict(args: Sequence[str] | None) -> None:
    """Adapt to the classes in a folder, and write the class of each image of a query as CSV and as an HTML page."""
    keep_freed_memory()
    config = _parser().parse_args(None if args is None else list(args))
    import_own_classes(config)
    classes, queries = support_classes(Path(config.support).expanduser()), query_files(config.query)
    settings = {name: config[name] for name in ("batch_size", "false_reject", "per_query", "device")}
    predictor = FewShotPredictor(config.ckpt_path, **settings)
    examples = [(file, name) for name, found in classes.items() for file in found.images]
    predictor.fit(*zip(*examples, strict=True))
    others = [file for found in (*classes.values(), queries) for file in found.others]
    for sentence in _remarks(predictor, [file for file, _ in examples], others):
        print(sentence)
    folder = Path(config.output).expanduser()
    make_folder(folder, "output")  # before the work that would be lost
    with within_memory("lower --batch_size, or pass --device cpu"):
        shown, unreadable = _labelled(predictor, queries.images)
    labels = [one.label for one in shown]
    write_labels(labels, folder / "predictions.csv")
    support = {
        name: [thumbnail_uri(predictor.model.opened(file)) for file in found.images] for name, found in classes.items()
    }
    save_text(report(support, shown, _facts(predictor)), folder / "report.html")
    num_unknown = sum(bool(label.is_unknown) for label in labels)
    images = "1 image" if len(labels) == 1 else f"{len(labels)} images"
    print(f"{images} labelled, {num_unknown} of them unknown: {folder}/predictions.csv and report.html")
    if unreadable:
        verb = "is" if len(unreadable) == 1 else "are"
        count = f"{len(unreadable)} of {len(queries.images)} images"
        raise InputError(f"{count} {verb} not labelled: {'; '.join(unreadable)}")


def _parser() -> FewShotArgumentParser:
    parser = FewShotArgumentParser(description="Label images by a few examples of each class.")
    parser.add_argument("--ckpt_path", type=str, required=True, help="checkpoint that train.py wrote")
    add_own_classes(parser)
    parser.add_argument("--support", type=str, required=True, help="folder with one folder of images per class")
    what = "images to label: folders, files, or patterns like 'new/*.jpg'"
    parser.add_argument("--query", type=str, nargs="+", required=True, help=what)
    parser.add_argument("--output", type=str, default="predictions", help="folder to write the results to")
    what = "share of the images of known classes that may be called unknown"
    parser.add_argument("--false_reject", type=float, default=FALSE_REJECT, help=what)
    parser.add_argument("--batch_size", type=int, default=256, help="images predicted at once")
    what = "with norm transductive: pass each image with the support alone, so that none influences another; slower"
    parser.add_argument("--per_query", type=bool, default=False, help=what)
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1 ...; auto: a GPU if there is one")
    return parser


def _remarks(predictor: FewShotPredictor, examples: list[Path], others: list[Path]) -> Iterator[str]:
    """What a user should know before trusting the labels: of skipped files, colours, norm and calibration."""
    if others:
        more = f" and {len(others) - 1} other {'file' if len(others) == 2 else 'files'}" if others[1:] else ""
        yield f"Left out, as no image: {others[0]}{more}"
    if predictor.model.is_grey and any(map(_has_colour, map(predictor.model.opened, examples))):
        yield "The images have colour and this model was trained on grey ones: it sees them in grey"
    if predictor.model.is_transductive and not predictor.per_query:
        yield (
            "Images labelled together influence each other, as this model's norm is transductive: "
            "pass --per_query true to have each by itself"
        )
    if predictor.model.is_transductive and predictor.rejection_ is not None:
        yield (
            "The threshold for unknown images was found on batches half of which were unknown; as this model's norm is "
            "transductive, it will be off for batches with other shares of them"
        )
    if predictor.rejection_ is None:
        yield "This checkpoint was not calibrated to call images unknown, so none is"


def _has_colour(image: Image.Image) -> bool:
    some = plain_colour(image).convert("HSV").resize((32, 32))
    saturation = np.asarray(some)[..., 1]
    return bool(saturation.mean() > 8)


def _labelled(predictor: FewShotPredictor, files: list[Path]) -> tuple[list[Shown], list[str]]:
    """The labels of image files, and what is wrong with those that do not decode."""
    shown: list[Shown] = []
    unreadable: list[str] = []
    starts = range(0, len(files), predictor.batch_size)
    for start in track(starts, "Labelling", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        read: list[_Read] = []
        for file in files[start : start + predictor.batch_size]:
            try:
                read.append(_read(predictor, file))
            except InputError as error:
                unreadable.append(str(error))
        shown += _shown(predictor, read)
    return shown, unreadable


class _Read(NamedTuple):
    """A query image: its file, its pixels as the benchmark would store them, and a small picture."""

    file: Path
    stored: NDArray[np.uint8]
    picture: str


def _read(predictor: FewShotPredictor, file: Path) -> _Read:
    image = predictor.model.opened(file)
    try:  # kept small: a batch of photographs would take gigabytes
        return _Read(file, predictor.model.data.own_image(image), thumbnail_uri(image))
    except (ValueError, TypeError, OSError) as error:  # Pillow's, for colours that it cannot convert
        raise InputError(f"image {file} cannot be made one in RGB ({error}): replace it or remove it") from error


def _shown(predictor: FewShotPredictor, read: list[_Read]) -> list[Shown]:
    logits = predictor.logits(predictor.model.network_input([one.stored for one in read]))
    log_probabilities = predictor.log_probabilities(logits)
    unknown = predictor.rejected(logits, log_probabilities)
    rows = zip(read, np.exp(log_probabilities), unknown, strict=True)
    return [
        Shown(sorted_label(one.file, predictor.classes_, row, rejected), one.picture) for one, row, rejected in rows
    ]


def _facts(predictor: FewShotPredictor) -> dict[str, Any]:
    rejection = predictor.rejection_
    return {
        "algorithm": type(predictor.model.algorithm).__name__,
        "checkpoint": str(predictor.checkpoint),
        "false_reject": predictor.false_reject,
        "false_accept": None if rejection is None else rejection.false_accept(predictor.false_reject),
    }
