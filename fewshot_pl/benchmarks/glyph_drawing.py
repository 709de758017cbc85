"""Samples of characters: their ink in thicker or thinner strokes, turned, slanted, scaled, moved and bent."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.benchmarks.glyph_classes import GlyphClass
from fewshot_pl.benchmarks.glyph_fonts import CANVAS_SIDE, grown, ink

SAMPLE_SIDE = 28
_SEED = 20
_STROKE = (-0.6, 1.0)  # canvas pixels taken from, or added to, each side of a stroke; at most 1
_TURN = math.radians(17)
_SLANT = 0.25
_SIZE = (0.75, 1.0)
_WIDTH = (0.9, 1.1)
_SHIFT = 0.07  # of half the canvas
_BEND = 0.06  # of half the canvas, for each wave
_NUM_WAVES = 3  # along each side of the canvas


class Draws(NamedTuple):
    """Random numbers, uniform in 0..1, that make n samples different."""

    face: Tensor  # [n]
    stroke: Tensor  # [n]
    turn: Tensor  # [n]
    slant: Tensor  # [n]
    size: Tensor  # [n]
    width: Tensor  # [n]
    shift: Tensor  # [n, 2]
    bend: Tensor  # [n, 2, _NUM_WAVES, _NUM_WAVES]


def class_samples(classes: Sequence[GlyphClass], num_samples: int) -> NDArray[np.uint8]:
    """Samples [len(classes), num_samples, 1, 28, 28], 255 = ink; a class's do not depend on the others."""
    draws = Draws(*map(torch.cat, zip(*(_draws(one, num_samples) for one in classes), strict=True)))
    faces = draws.face.view(-1, num_samples)
    inks = np.concatenate([_random_inks(one, face) for one, face in zip(classes, faces, strict=True)])
    bent = F.grid_sample(_restroked(inks, draws.stroke), positions(draws), align_corners=False)
    pixels = F.avg_pool2d(bent, CANVAS_SIDE // SAMPLE_SIDE)
    return pixels.round().to(torch.uint8).view(len(classes), num_samples, 1, SAMPLE_SIDE, SAMPLE_SIDE).numpy()


def _draws(glyphs: GlyphClass, num_samples: int) -> Draws:
    generator = torch.Generator().manual_seed((_SEED << 21) + ord(glyphs.character))  # code points have 21 bits
    shapes = ((), (), (), (), (), (), (2,), (2, _NUM_WAVES, _NUM_WAVES))
    return Draws(*(torch.rand(num_samples, *shape, generator=generator) for shape in shapes))


def _random_inks(glyphs: GlyphClass, draws: Tensor) -> NDArray[np.uint8]:
    inks = [ink(face, glyphs.character) for face in glyphs.faces]
    return np.stack([inks[pick] for pick in (draws * len(inks)).long().tolist()])


def _restroked(inks: NDArray[np.uint8], draws: Tensor) -> Tensor:
    """The inks [n, H, W] with strokes wider or narrower by a random width, [n, 1, H, W] in 0..255."""
    narrow, as_is, wide = (torch.from_numpy(one)[:, None].float() for one in (~grown(~inks, 1), inks, grown(inks, 1)))
    change = _between(*_STROKE, draws).view(-1, 1, 1, 1)
    return torch.where(change < 0, as_is.lerp(narrow, -change), as_is.lerp(wide, change))


def positions(draws: Draws) -> Tensor:
    """The canvas position of each pixel of n distorted canvases, [n, 84, 84, 2], as ``grid_sample`` takes it."""
    centres = (torch.arange(CANVAS_SIDE) + 0.5) / CANVAS_SIDE  # 0..1
    ys, xs = torch.meshgrid(2 * centres - 1, 2 * centres - 1, indexing="ij")
    moved = _affine_maps(draws).flatten(0, 1) @ torch.stack([xs, ys, torch.ones_like(xs)]).flatten(1)
    waves = torch.cos(math.pi * torch.arange(1, _NUM_WAVES + 1)[:, None] * centres)  # half a period, a whole one, ...
    bends = waves.T @ _between(-_BEND, _BEND, draws.bend) @ waves  # [n, 2, 84, 84]
    return (moved.view_as(bends) + bends).permute(0, 2, 3, 1)


def _affine_maps(draws: Draws) -> Tensor:
    """Turns, slants, scales and shifts [n, 2, 3], from positions on a sample to positions on the canvas."""
    angle, slant = _between(-_TURN, _TURN, draws.turn), _between(-_SLANT, _SLANT, draws.slant)
    width = _between(*_WIDTH, draws.width)
    turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    shapes = torch.stack([1 / width, slant, torch.zeros_like(slant), torch.ones_like(slant)], dim=1).view(-1, 2, 2)
    shifts = _between(-_SHIFT, _SHIFT, draws.shift)
    return torch.cat([shapes @ turns / _between(*_SIZE, draws.size).view(-1, 1, 1), shifts[:, :, None]], dim=2)


def _between(low: float, high: float, draws: Tensor) -> Tensor:
    return low + (high - low) * draws
