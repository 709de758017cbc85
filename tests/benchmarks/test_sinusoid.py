"""Sinusoid: the distribution of its curves, and that an episode is a function of its number."""

import math

import pytest
import torch

from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.errors import InputError


def episodes(data, split="train", epoch=0):
    loader = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    batches = [data.episode(batch) for batch in loader]
    return type(batches[0])(*(torch.cat(tensors) for tensors in list(zip(*batches, strict=True))[:4]))


def points(episode):
    """x and y [T, K+Q] in float64."""
    x = torch.cat([episode.support_x, episode.query_x], 1).flatten(1)
    y = torch.cat([episode.support_y, episode.query_y], 1).flatten(1)
    return x.double(), y.double()


def fitted(x, y, *columns):
    """The coefficients [T, c] and the largest residual [T] of a least-squares fit of the columns [T, n, c]."""
    columns = torch.stack(columns, -1)
    coefficients = torch.linalg.lstsq(columns, y[..., None]).solution
    return coefficients[..., 0], (columns @ coefficients - y[..., None]).abs().amax((1, 2))


@pytest.mark.parametrize(
    ("settings", "smallest", "largest_phase"),
    [
        ({}, 0.1, math.pi),  # the paper's
        ({"largest_phase": 2 * math.pi}, 0.1, 2 * math.pi),
        ({"smallest_amplitude": 2.0}, 2.0, math.pi),
    ],
    ids=["paper", "largest_phase", "smallest_amplitude"],
)
def test_curves_are_sines_of_the_stated_amplitudes_and_phases(settings, smallest, largest_phase):
    x, y = points(episodes(Sinusoid(batches_per_epoch=40, **settings)))
    (sine, cosine), residual = fitted(x, y, x.sin(), x.cos())[0].unbind(-1), fitted(x, y, x.sin(), x.cos())[1]
    amplitude = torch.hypot(sine, cosine)
    phase = (torch.atan2(-cosine, sine) + 1e-3) % (2 * math.pi) - 1e-3  # rounding may turn 0 into nearly 2 pi
    assert residual.max() < 1e-5
    assert x.min() > -5 and x.max() < 5 and x.mean().abs() < 0.1
    assert smallest - 1e-4 < amplitude.min() < smallest + 0.1 and 4.9 < amplitude.max() < 5 + 1e-4
    assert amplitude.mean() == pytest.approx((smallest + 5) / 2, abs=0.15)
    assert phase.min() < 0.05 and largest_phase - 0.05 < phase.max() < largest_phase + 1e-3
    assert phase.mean() == pytest.approx(largest_phase / 2, abs=largest_phase / 32)


def test_half_of_the_mixture_are_lines():
    x, y = points(episodes(Sinusoid(lines=True, batches_per_epoch=40)))
    coefficients, residual = fitted(x, y, x, torch.ones_like(x))
    lines = residual < 1e-4
    assert lines.double().mean() == pytest.approx(0.5, abs=0.05)
    assert coefficients[lines].abs().max() < 3 + 1e-3
    assert coefficients[lines].std(0) == pytest.approx([math.sqrt(3)] * 2, abs=0.1)
    waves = ~lines
    sines, residual = fitted(x[waves], y[waves], x[waves].sin(), x[waves].cos())
    assert residual.max() < 1e-4
    assert sines.norm(dim=1).min() > 1 - 1e-3


def test_noise_is_on_the_support_and_in_training_on_the_queries():
    for split, query_noise in (("train", 0.3), ("val", 0.0), ("test", 0.0)):
        settings = {"batches_per_epoch": 40, "num_val_episodes": 1000, "num_test_episodes": 1000}
        noisy, exact = (episodes(Sinusoid(noise=noise, **settings), split) for noise in (0.3, 0.0))
        assert torch.equal(noisy.support_x, exact.support_x)
        assert (noisy.support_y - exact.support_y).std().item() == pytest.approx(0.3, abs=0.01)
        assert (noisy.query_y - exact.query_y).std().item() == pytest.approx(query_noise, abs=0.01)


def test_an_episode_is_a_function_of_seed_split_epoch_and_number():
    def first(split="train", epoch=0, **settings):
        return episodes(Sinusoid(**{"batches_per_epoch": 2, **settings}), split, epoch).support_x[:20]

    assert torch.equal(first(), first(tasks_per_batch=10))
    assert torch.equal(first(), first(num_workers=2))
    others = [first(seed=1), first(epoch=1), first("val"), first("test")]
    assert all(not torch.equal(first(), other) for other in others)


def test_training_may_have_other_numbers_of_points():
    data = Sinusoid(num_shots=5, train_num_shots=10, batches_per_epoch=1)
    assert episodes(data).support_y.shape == (25, 10, 1)
    assert episodes(data, "test").support_x.shape == (1000, 5, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise", -0.1), ("noise", math.nan), ("smallest_amplitude", 9.0), ("largest_phase", math.inf)],
)
def test_distributions_that_cannot_be_are_refused(name, value):
    with pytest.raises(InputError, match=f"--data.{name} must be"):
        Sinusoid(**{name: value})
