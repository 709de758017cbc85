"""Which characters are classes of Glyphs: one for each look, split by script."""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_pl.benchmarks.glyph_fonts import Face, faces, ink
from fewshot_pl.data.datamodule import SPLITS, Split

# First words of Unicode names. Training comes first: a look found in two splits belongs to the first of them.
SCRIPTS: dict[Split, tuple[str, ...]] = {
    "train": ("LATIN", "GREEK", "CYRILLIC", "COPTIC", "CANADIAN", "LISU", "OLD ITALIC", "DIGIT", "MATHEMATICAL SIGNS"),
    "val": ("HEBREW", "LAO", "NKO", "OGHAM"),
    "test": ("GEORGIAN", "ARMENIAN", "ARABIC", "TIFINAGH", "ARABIC-INDIC", "EXTENDED ARABIC-INDIC"),
}
_REFERENCE_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")  # where looks are compared
_PIXEL = 3  # canvas pixels in a pixel of a sample
_REACH = 4  # canvas pixels by which ink may be off, or strokes be wider, and still look the same
_SAME_LOOK = 4.0  # full pixels of a sample; by eye, pairs that differ by more can be told apart once distorted
_LEVELS = 100  # of grey: float32 then adds up whole numbers exactly, and every machine finds the same classes


class GlyphClass(NamedTuple):
    """Characters that look the same.

    Attributes:
        character: the one that is drawn and that gives the class its name.
        look_alikes: the others, of any script.
        faces: where ``character`` has a glyph that looks like no other class (a cursive T may look like an m).
    """

    character: str
    look_alikes: frozenset[str]
    faces: tuple[Face, ...]

    @property
    def name(self) -> str:
        return unicodedata.name(self.character)


class Looks(NamedTuple):
    """What of n inks is compared, in levels of grey of a sample's pixels."""

    ink: Tensor  # [n, 784]
    reach: Tensor  # [n, 784] the ink grown by _REACH


def script(character: str) -> str | None:
    """The script of a letter, digit or mathematical sign, as named in SCRIPTS; None for all other characters.

    Accented letters and characters that are another one in a different style are no classes.
    """
    if unicodedata.normalize("NFKD", character) != character:
        return None
    category = unicodedata.category(character)
    if category == "Sm":
        return "MATHEMATICAL SIGNS"
    if category not in ("Lu", "Ll", "Lt", "Lo", "Nd"):
        return None
    name = unicodedata.name(character)
    return next((script for script in _all_scripts() if name.startswith(f"{script} ")), None)


def _all_scripts() -> list[str]:
    return [script for split in SPLITS for script in SCRIPTS[split]]


@cache
def glyph_classes() -> dict[Split, list[GlyphClass]]:
    """The classes of every split; no two of them, of the same split or not, look the same."""
    characters = _candidates()
    owners = _owners(_differences(characters))
    members: dict[str, list[str]] = {}
    for character, owner in zip(characters, owners, strict=True):
        members.setdefault(characters[owner], []).append(character)
    distinct = _distinct_faces(list(members))
    classes = [GlyphClass(c, frozenset(members[c][1:]), tuple(distinct[c])) for c in members if distinct[c]]
    return {split: [one for one in classes if script(one.character) in SCRIPTS[split]] for split in SPLITS}


def _candidates() -> list[str]:
    """All characters of a reference face that have a script and ink, in the order of SCRIPTS and Unicode."""
    order = {script: position for position, script in enumerate(_all_scripts())}
    found = {
        character: order[name]
        for face in _REFERENCE_FACES
        for character in faces()[face].characters
        if (name := script(character)) and ink(faces()[face], character).any()
    }
    return sorted(found, key=lambda character: (found[character], character))


def looks(face: Face, characters: list[str]) -> Looks:
    """The looks of n characters of a face."""
    canvas = torch.from_numpy(np.stack([ink(face, character) for character in characters])).float()[:, None] / 255
    grown = F.max_pool2d(canvas, 2 * _REACH + 1, stride=1, padding=_REACH)
    ink_levels, reach_levels = (
        (F.avg_pool2d(picture, _PIXEL) * _LEVELS).round().flatten(1) for picture in (canvas, grown)
    )
    return Looks(ink_levels, reach_levels)


def difference(these: Looks, those: Looks) -> Tensor:
    """How far n looks are from m others [n, m]: the ink of one out of the other's reach, in pixels of a sample."""
    return torch.maximum(_out_of_reach(these, those), _out_of_reach(those, these).T)


def _out_of_reach(these: Looks, those: Looks) -> Tensor:
    return (these.ink.sum(1, keepdim=True) * _LEVELS - these.ink @ those.reach.T) / _LEVELS**2


def _differences(characters: list[str]) -> Tensor:
    """The least difference of any two characters [n, n] over the reference faces that hold both."""
    least = torch.full((len(characters), len(characters)), torch.inf)
    for name in _REFERENCE_FACES:
        held = [position for position, character in enumerate(characters) if character in faces()[name].characters]
        found = looks(faces()[name], [characters[position] for position in held])
        rows, columns = torch.tensor(held)[:, None], torch.tensor(held)
        least[rows, columns] = torch.minimum(least[rows, columns], difference(found, found))
    return least


def _owners(differences: Tensor) -> list[int]:
    """For each of n characters the first class-giving one it looks like, or itself: it then gives a class."""
    owners: list[int] = []
    gives_class = torch.zeros(len(differences), dtype=torch.bool)
    for position, row in enumerate(differences < _SAME_LOOK):
        alike = (row & gives_class).nonzero()
        owners.append(int(alike[0]) if len(alike) else position)
        gives_class[position] = not len(alike)
    return owners


def _distinct_faces(characters: list[str]) -> dict[str, list[Face]]:
    """For each class's character the faces in which it is nearer to its own reference looks than to any other's."""
    position = {character: index for index, character in enumerate(characters)}
    references = [(held, looks(faces()[name], held)) for name in _REFERENCE_FACES if (held := _held(faces()[name], characters))]
    distinct: dict[str, list[Face]] = {character: [] for character in characters}
    for face in faces().values():
        held = [character for character in _held(face, characters) if ink(face, character).any()]
        if not held:
            continue
        nearest = torch.full((len(held), len(characters)), torch.inf)
        found = looks(face, held)
        for others, reference in references:
            columns = torch.tensor([position[character] for character in others])
            nearest[:, columns] = torch.minimum(nearest[:, columns], difference(found, reference))
        own = torch.tensor([position[character] for character in held])[:, None]
        own_difference = nearest.gather(1, own)[:, 0]
        other_difference = nearest.scatter(1, own, torch.inf).amin(1)
        for character, is_distinct in zip(held, (own_difference < other_difference).tolist(), strict=True):
            if is_distinct:
                distinct[character].append(face)
    return distinct


def _held(face: Face, characters: list[str]) -> list[str]:
    return [character for character in characters if character in face.characters]
