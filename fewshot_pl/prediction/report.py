"""The page that shows the labels of a user's images, as one self-contained file."""

import io
from collections import Counter
from typing import Any, NamedTuple

from PIL import Image

from fewshot_pl.data.square_image import plain_colour
from fewshot_pl.pages import data_uri, page
from fewshot_pl.prediction.labels import Label

_SIDE = 160  # pixels of a small picture, at most
_MOST_LABELS = 5000  # a page of more is too large for a phone
_NUM_BARS = 5


class Shown(NamedTuple):
    """One image on the page."""

    label: Label
    picture: str  # as a data URI


def thumbnail_uri(image: Image.Image) -> str:
    """A small upright copy of an image, as a data URI."""
    small = plain_colour(image)
    small.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return data_uri(content.getvalue(), "jpeg")


def report(support: dict[str, list[str]], shown: list[Shown], facts: dict[str, Any]) -> str:
    """The page as HTML: the classes with their pictures, then the labelled images, the most confident first.

    Args:
        support: data URIs of each class's images, by its name.
        shown: the labelled images.
        facts: about the model: ``algorithm``, ``checkpoint``, ``false_reject`` and ``false_accept``, maybe None.
    """
    surest_first = sorted(shown, key=lambda one: (bool(one.label.is_unknown), -one.label.probabilities[0]))
    counts = Counter(one.label.classes[0] for one in shown if not one.label.is_unknown)
    return page(
        "predictions.html",
        support=support,
        shown=surest_first[:_MOST_LABELS],
        num_labels=len(shown),
        counts=counts,
        num_unknown=sum(bool(one.label.is_unknown) for one in shown),
        num_bars=_NUM_BARS,
        **facts,
    )
