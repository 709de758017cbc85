"""Samples of a character: its ink in thicker or thinner strokes, turned, sheared, scaled, moved and bent."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.benchmarks.glyph_classes import GlyphClass
from fewshot_pl.benchmarks.glyph_fonts import CANVAS_SIDE, ink

SAMPLE_SIDE = 28
_SEED = 20
_THICKEST, _THINNEST = 2, 1  # canvas pixels added to or taken from each side of a stroke
_ROTATION = math.radians(15)  # standard deviations and ranges below are of the coordinates -1..1 of the canvas
_SHEAR = 0.25
_SCALES = (0.8, 1.12)
_SHIFT = 0.08
_BEND = 0.07
_BEND_KNOTS = 4  # per side, of the grid whose knots are moved at random


def class_samples(glyphs: GlyphClass, num_samples: int) -> NDArray[np.uint8]:
    """Samples [num_samples, 1, 28, 28], 255 = ink, each in a random face of the class; the same on every call."""
    generator = torch.Generator().manual_seed((_SEED << 32) + ord(glyphs.character))
    inks = [ink(face, glyphs.character) for face in glyphs.faces]
    picks = torch.randint(len(inks), (num_samples,), generator=generator)
    canvas = torch.from_numpy(np.stack(inks))[picks, None].float() / 255
    bent = F.grid_sample(restroked(canvas, generator), sample_positions(num_samples, generator), align_corners=False)
    pixels = F.avg_pool2d(bent, CANVAS_SIDE // SAMPLE_SIDE)
    return (pixels * 255).round().to(torch.uint8).numpy()


def restroked(canvas: Tensor, generator: torch.Generator) -> Tensor:
    """Ink [n, 1, H, W] in 0..1 with strokes wider or narrower by a random width per image."""
    wide = F.max_pool2d(canvas, 2 * _THICKEST + 1, stride=1, padding=_THICKEST)
    narrow = -F.max_pool2d(-canvas, 2 * _THINNEST + 1, stride=1, padding=_THINNEST)
    change = _uniform((len(canvas), 1, 1, 1), -1, 1, generator)
    return canvas + change.clamp(min=0) * (wide - canvas) - change.clamp(max=0) * (narrow - canvas)


def sample_positions(num_samples: int, generator: torch.Generator) -> Tensor:
    """Where on the canvas each pixel of the bent canvas lies [n, H, W, 2], as ``grid_sample`` takes it."""
    size = [num_samples, 1, CANVAS_SIDE, CANVAS_SIDE]
    straight = F.affine_grid(_random_affine(num_samples, generator), size, align_corners=False)
    knots = _BEND * torch.randn(num_samples, 2, _BEND_KNOTS, _BEND_KNOTS, generator=generator)
    bends = F.interpolate(knots, size=size[2:], mode="bicubic", align_corners=True)
    return straight + bends.permute(0, 2, 3, 1)


def _random_affine(num_samples: int, generator: torch.Generator) -> Tensor:
    """Random turns, shears, scales and shifts [n, 2, 3], from a sample's coordinates to the canvas's."""
    angle = _uniform((num_samples,), -_ROTATION, _ROTATION, generator)
    shear = _uniform((num_samples,), -_SHEAR, _SHEAR, generator)
    scales = _uniform((num_samples, 2, 1), *_SCALES, generator)
    shift = _uniform((num_samples, 2, 1), -_SHIFT, _SHIFT, generator)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    slant = torch.stack([torch.ones_like(shear), shear, torch.zeros_like(shear), torch.ones_like(shear)], dim=1)
    return torch.cat([slant.view(-1, 2, 2) @ turn / scales, shift], dim=2)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
