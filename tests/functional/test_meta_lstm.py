"""The meta-LSTM's parts by the papers' formulas, written for one number (Ravi and Larochelle 2017, section 3)."""

import math

import pytest
import torch

from fewshot_pl.functional.meta_lstm import initial_state, meta_cell_step, preprocessed


def test_the_first_state_is_the_point_and_zeros():
    point = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    state = initial_state(point, 4)
    assert state.point is point
    for zeros, height in ((state.gates, 2), (state.hidden, 4), (state.cell, 4)):
        assert zeros.shape == (height, 3) and zeros.dtype == torch.float64 and not zeros.any()


@pytest.mark.parametrize("value", [0.0, 1e-6, -1e-6, math.exp(-10), -math.exp(-10), 1e-3, -0.2, 1.0, -7.0])
def test_values_are_preprocessed_by_size_and_sign(value):
    if abs(value) >= math.exp(-10) * (1 - 1e-12):
        expected = [math.log(abs(value)) / 10, math.copysign(1, value)]
    else:
        expected = [-1, math.exp(10) * value]
    found = preprocessed(torch.tensor([[value, 1.0]], dtype=torch.float64))
    assert found.shape == (2, 1, 2)
    assert found[:, 0, 0].tolist() == pytest.approx(expected, abs=1e-9)


def test_the_cell_forgets_and_descends():
    point, gradient = torch.tensor([2.0, -4.0]), torch.tensor([1.0, 8.0])
    gates = torch.tensor([[0.5, 0.25], [1.0, 0.5]])  # input, forget
    assert meta_cell_step(point, gradient, gates).tolist() == [1.5, -4.0]
