"""What a benchmark provides: its classes, checked, and the name of the cache that holds their images."""

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
        InputError: the images of a class are not a uint8 array [n, C, H, W] of the stated shape.
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

    For a class outside fewshot_pl it also depends on the module, the module's file and ``image_shape``, as another
    project may have a class of the same name.

    Raises:
        InputError: the fingerprint holds other than plain values.
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
    """The file of a class, or the current folder in a notebook, which has no file."""
    return getattr(sys.modules.get(owner.__module__), "__file__", None) or str(Path.cwd())
