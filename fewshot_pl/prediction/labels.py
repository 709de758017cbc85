"""Labels of image files, and a table of them."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.whole_files import whole_file


class Label(NamedTuple):
    """A model's prediction for one image.

    Attributes:
        file: the image.
        classes: the names of all classes, the most probable first [N].
        probabilities: the probabilities of these classes, in descending order [N].
        is_unknown: whether it looks like none of them; None where the checkpoint has no calibration.
    """

    file: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    is_unknown: bool | None

    @property
    def margin(self) -> float:
        """How much more probable the first class is than the second."""
        return self.probabilities[0] - self.probabilities[1]


def sorted_label(
    file: Path, names: NDArray[np.str_], probabilities: NDArray[np.float64], is_unknown: bool | None
) -> Label:
    """The Label of an image from the names [N] and the probabilities [N] of the classes."""
    order = np.argsort(-probabilities, kind="stable")
    return Label(file, tuple(map(str, names[order])), tuple(probabilities[order].tolist()), is_unknown)


def write_labels(labels: Iterable[Label], path: Path) -> None:
    """Write labels as CSV: file, class, probability, margin, second class, and ``yes`` or ``no`` for unknown."""
    # Names of files may hold bytes that are not text; they are written as they are on disk.
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "probability", "margin", "second_class", "unknown"])
        for label in labels:
            unknown = {True: "yes", False: "no", None: ""}[label.is_unknown]
            figures = f"{label.probabilities[0]:.4f}", f"{label.margin:.4f}"
            table.writerow([label.file, label.classes[0], *figures, label.classes[1], unknown])
