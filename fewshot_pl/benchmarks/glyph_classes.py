"""The characters that are classes of Glyphs: one for each look, split by script."""

import unicodedata
from functools import cache
from typing import NamedTuple

from fewshot_pl.benchmarks.glyph_fonts import Face, faces
from fewshot_pl.benchmarks.glyph_looks import REFERENCE_FACES, distinct_faces, first_alike, mean_differences
from fewshot_pl.data.datamodule import SPLITS, Split

# How Unicode names begin, except MATHEMATICAL: the signs of no other script. Training comes first, because a look
# found in two splits belongs to the first of them.
SCRIPTS: dict[Split, tuple[str, ...]] = {
    "train": ("LATIN", "GREEK", "CYRILLIC", "COPTIC", "CANADIAN", "LISU", "OLD ITALIC", "DIGIT", "MATHEMATICAL"),
    "val": ("HEBREW", "LAO", "NKO", "OGHAM"),
    "test": ("GEORGIAN", "ARMENIAN", "ARABIC", "TIFINAGH", "ARABIC-INDIC", "EXTENDED ARABIC-INDIC"),
}
_ALL_SCRIPTS = [script for split in SPLITS for script in SCRIPTS[split]]
_CATEGORIES = ("Lu", "Ll", "Lt", "Lo", "Nd", "Sm")  # letters, digits and mathematical signs


class GlyphClass(NamedTuple):
    """Characters too alike to be told apart in samples.

    Attributes:
        character: the one that is drawn and that gives the class its name.
        look_alikes: the other characters, of any script.
        faces: those in which ``character`` looks most like itself (a cursive Cyrillic T looks like an m).
    """

    character: str
    look_alikes: frozenset[str]
    faces: tuple[Face, ...]

    @property
    def name(self) -> str:
        return unicodedata.name(self.character)


def script(character: str) -> str | None:
    """The script of a character as named in SCRIPTS; None if it is not to be drawn.

    Accented letters, and characters that are another character in a different style, are not drawn.
    """
    category = unicodedata.category(character)
    if category not in _CATEGORIES or unicodedata.normalize("NFKD", character) != character:
        return None
    name = unicodedata.name(character)
    found = next((script for script in _ALL_SCRIPTS if name.startswith(f"{script} ")), None)
    return "MATHEMATICAL" if found is None and category == "Sm" else found


@cache
def glyph_classes() -> dict[Split, list[GlyphClass]]:
    """The classes of every split; no two of them, in the same split or not, look the same.

    A character that looks like another one in all its faces, though not in the reference faces, is left out.
    """
    characters = _candidates()
    members: dict[str, list[str]] = {}
    for character, owner in zip(characters, first_alike(mean_differences(characters)), strict=True):
        members.setdefault(characters[owner], []).append(character)
    owners = list(members)
    classes = [
        GlyphClass(character, frozenset(members[character][1:]), tuple(distinct))
        for character, distinct in zip(owners, distinct_faces(owners), strict=True)
        if distinct
    ]
    return {split: [one for one in classes if script(one.character) in SCRIPTS[split]] for split in SPLITS}


def _candidates() -> list[str]:
    """The characters of the reference faces that have a script, in the order of SCRIPTS and Unicode."""
    found = {
        character: _ALL_SCRIPTS.index(name)
        for face in REFERENCE_FACES
        for character in faces()[face].characters
        if (name := script(character))
    }
    return sorted(found, key=lambda character: (found[character], character))
