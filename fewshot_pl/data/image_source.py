"""What a benchmark gives of its images: the classes, checked, and the name of the cache that holds them."""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.errors import InputError
from fewshot_pl.plain_arguments import plain
from fewshot_pl.registries import stored_name

ClassImages = Iterable[tuple[str, NDArray[np.uint8]]]  # (class name, images uint8 [n, C, H, W])


def checked_classes(
    benchmark: type, classes: ClassImages, image_shape: Sequence[int]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The classes of a benchmark with their images.

    Raises:
        InputError: images of a class are no uint8 array [n, C, H, W] of the shape that is stated.
    """
    for name, images in classes:
        kind, shape = getattr(images, "dtype", ""), list(getattr(images, "shape", ()))
        if not isinstance(images, np.ndarray) or kind != np.uint8 or shape[1:] != [*image_shape]:
            wanted = ", ".join(map(str, ("n", *image_shape)))
            raise InputError(
                f"class_images of {benchmark.__name__} must give arrays of numpy, uint8 [{wanted}], as image_shape "
                f"states, and gives class '{name}' as {type(images).__name__} {kind} {shape}"
            )
        yield str(name), images


def cache_name(benchmark: type, fingerprint: Any, image_shape: Sequence[int]) -> str:
    """The name of the folder of a benchmark's packed images.

    That of a class outside of fewshot_pl depends on its module, the file of that and ``image_shape`` too, as another
    project may have one of its name.

    Raises:
        InputError: the fingerprint does not hold plain values alone.
    """
    name = benchmark.__name__
    try:
        named_by = plain(fingerprint)
    except TypeError as error:
        raise InputError(
            f"source_fingerprint of {name} must give plain values, as numbers, text, lists and dicts: {error}"
        ) from error
    if (own := stored_name(benchmark)) != name:
        named_by = [named_by, own, _place_of(benchmark), plain([*image_shape])]
    return f"{name}-{hashlib.sha256(json.dumps(named_by, sort_keys=True).encode()).hexdigest()[:12]}"


def _place_of(owner: type) -> str:
    """The file of a class; of a notebook, which has none, the folder."""
    return getattr(sys.modules.get(owner.__module__), "__file__", None) or str(Path.cwd())
