"""The steps of an LSTM against torch's own, in float64."""

import torch
from torch import nn

from fewshot_pl.functional.lstm import lstm_hidden_states, lstm_step

NUM_FEATURES = 5


def random_numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_lstm_step_is_torchs():
    cell = nn.LSTMCell(3, NUM_FEATURES, dtype=torch.float64)
    inputs, hidden, memory = random_numbers(2, 3), random_numbers(2, NUM_FEATURES), random_numbers(2, NUM_FEATURES)
    gates = inputs @ cell.weight_ih.T + hidden @ cell.weight_hh.T + cell.bias_ih + cell.bias_hh
    expected = cell(inputs, (hidden, memory))
    torch.testing.assert_close(lstm_step(gates, memory), expected, rtol=0, atol=1e-15)
    upright = tuple(state.T for state in lstm_step(gates.T, memory.T, dim=0))
    torch.testing.assert_close(upright, expected, rtol=0, atol=1e-15)


def test_lstm_hidden_states_are_torchs():
    lstm = nn.LSTM(3, NUM_FEATURES, dtype=torch.float64)
    sequence = random_numbers(6, 3)
    gates = sequence @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0
    states = lstm_hidden_states(gates, lstm.weight_hh_l0)
    torch.testing.assert_close(states, lstm(sequence)[0], rtol=0, atol=1e-15)
    assert not torch.allclose(lstm_hidden_states(gates.flip(0), lstm.weight_hh_l0).flip(0), states)
