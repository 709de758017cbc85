"""How different the looks of characters are, at the resolution of a sample."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.benchmarks.glyph_fonts import Face, faces, grown, ink

REFERENCE_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")  # in which looks are compared
_PROPORTIONS = (1.0, 0.5)  # 0.5: samples vary in width and height, so classes must differ in more
_PIXEL = 3  # canvas pixels per sample pixel, in each direction
_REACH = 4  # canvas pixels by which ink may be off, or strokes wider, and still count as the same
_LEVELS = 100  # of grey: float32 then adds whole numbers exactly, so every machine finds the same differences
_SAME_LOOK = 3.5  # pixels of a sample; by eye, pairs that differ by more can be told apart once distorted
_CLEAR = 90  # level that some pixel of a character must reach: blank glyphs and hairlines do not


class Looks(NamedTuple):
    """What is compared between inks, in levels of grey of a sample's pixels."""

    ink: Tensor  # [n, 784]
    reach: Tensor  # [n, 784] the ink grown by _REACH


def looks(face: Face, characters: Sequence[str], proportions: float = 1.0) -> Looks:
    """The looks of n characters of a face, their proportions raised to a power."""
    inks = np.stack([ink(face, character, proportions) for character in characters])
    return Looks(_levels(inks), _levels(grown(inks, _REACH)))


def _levels(inks: NDArray[np.uint8]) -> Tensor:
    sums = F.avg_pool2d(torch.from_numpy(inks)[:, None].float(), _PIXEL, divisor_override=1)
    return (sums * _LEVELS / (255 * _PIXEL**2)).floor().flatten(1)


def difference(these: Looks, those: Looks) -> Tensor:
    """The differences [n, m] of n looks from m others: ink of one beyond the other's reach, in full sample pixels."""
    return torch.maximum(_out_of_reach(these, those), _out_of_reach(those, these).T)


def _out_of_reach(these: Looks, those: Looks) -> Tensor:
    return (these.ink.sum(1, keepdim=True) * _LEVELS - these.ink @ those.reach.T) / _LEVELS**2


def first_alike(differences: Tensor) -> list[int]:
    """For each of n looks, given their differences [n, n], the first distinct one it is like; itself if distinct."""
    firsts: list[int] = []
    distinct = torch.zeros(len(differences), dtype=torch.bool)
    for position, alike in enumerate(differences < _SAME_LOOK):
        nearest = (alike & distinct).nonzero()
        firsts.append(int(nearest[0]) if len(nearest) else position)
        distinct[position] = not len(nearest)
    return firsts


def mean_differences(characters: Sequence[str]) -> Tensor:
    """The mean difference [n, n] of any two characters over the reference faces that hold both; NaN if none does."""
    total = torch.zeros(len(characters), len(characters))
    num_faces = torch.zeros_like(total)
    for name in REFERENCE_FACES:
        held = _positions_held(faces()[name], characters)
        found = [looks(faces()[name], _at(held, characters), proportions) for proportions in _PROPORTIONS]
        total[held[:, None], held] += torch.stack([difference(one, one) for one in found]).amin(0)
        num_faces[held[:, None], held] += 1
    return total / num_faces


def distinct_faces(characters: Sequence[str]) -> list[list[Face]]:
    """For each character the faces in which it is clear, nearest to its own reference, and unlike all before it."""
    references = _references(characters)
    distinct: list[list[Face]] = [[] for _ in characters]
    for face in faces().values():
        held = _positions_held(face, characters)
        if not len(held):
            continue
        found = looks(face, _at(held, characters))
        own = (found.ink.amax(1) >= _CLEAR) & _nearest_to_itself(found, held, references, len(characters))
        found = Looks(found.ink[own], found.reach[own])
        for index, first in enumerate(first_alike(difference(found, found))):
            if first == index:
                distinct[int(held[own][index])].append(face)
    return distinct


def _nearest_to_itself(
    found: Looks, held: Tensor, references: list[tuple[Tensor, Looks]], num_characters: int
) -> Tensor:
    """Whether each of n looks, of characters at positions ``held``, is nearer to its own reference than to others'."""
    nearest = torch.full((len(held), num_characters), torch.inf)
    for columns, reference in references:
        nearest[:, columns] = torch.minimum(nearest[:, columns], difference(found, reference))
    own = nearest.gather(1, held[:, None])[:, 0]
    return own < nearest.scatter(1, held[:, None], torch.inf).amin(1)


def _references(characters: Sequence[str]) -> list[tuple[Tensor, Looks]]:
    """For each reference face the positions of the characters it holds, and their looks."""
    held = [(_positions_held(faces()[name], characters), faces()[name]) for name in REFERENCE_FACES]
    return [(positions, looks(face, _at(positions, characters))) for positions, face in held if len(positions)]


def _positions_held(face: Face, characters: Sequence[str]) -> Tensor:
    positions = [position for position, character in enumerate(characters) if character in face.characters]
    return torch.tensor(positions, dtype=torch.long)


def _at(positions: Tensor, characters: Sequence[str]) -> list[str]:
    return [characters[position] for position in positions.tolist()]
