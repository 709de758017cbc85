"""Noise, precision and the loss of a prediction."""

import pytest
import torch
from scipy.stats import kstest

from fewshot_pl.functional.noise import fixed_normal_noise, normal_noise
from fewshot_pl.functional.objectives import prediction_loss
from fewshot_pl.functional.precision import at_least_float32


@pytest.mark.parametrize("noise", [normal_noise, fixed_normal_noise])
def test_noise_is_normal_and_a_function_of_its_seed(noise):
    first, again, other = (noise(seed, 40, 50) for seed in ("0/1", "0/1", "0/2"))
    assert first.shape == (40, 50)
    assert torch.equal(first, again)
    assert torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1].abs() < 0.1
    assert kstest(first.flatten().numpy(), "norm").pvalue > 1e-3


def test_fixed_noise_is_the_same_for_every_task_of_vmap():
    tasks = torch.vmap(lambda task: task + fixed_normal_noise("0/1", 3))(torch.zeros(4, 3))
    assert torch.equal(tasks, fixed_normal_noise("0/1", 3).expand(4, 3))


@pytest.mark.parametrize("noise", [normal_noise, fixed_normal_noise])
def test_noise_leaves_the_global_random_state_alone(noise):
    before = torch.random.get_rng_state()
    noise("0/1", 3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_half_precision_is_widened_and_nothing_narrowed(given, expected):
    assert at_least_float32(torch.ones(2, dtype=getattr(torch, given))).dtype == getattr(torch, expected)


def test_what_is_minimised():
    outputs, targets = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    assert prediction_loss(outputs, targets) == (0 + 4 + 9 + 0) / 4
    log_probabilities = outputs.log_softmax(-1)[0]
    expected = -(log_probabilities[0, 1] + log_probabilities[1, 0]) / 2
    torch.testing.assert_close(prediction_loss(outputs, torch.tensor([[1, 0]])), expected)
    one_left_out = prediction_loss(outputs, torch.tensor([[1, -100]]))
    torch.testing.assert_close(one_left_out, -log_probabilities[0, 1])


@pytest.mark.parametrize("targets", [torch.arange(3).expand(2, 3), torch.ones(2, 3, 4)])
def test_the_loss_of_outputs_in_half_precision_is_computed_in_float32_under_vmap_too(targets):
    outputs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = [prediction_loss(one.float(), target) for one, target in zip(outputs, targets, strict=True)]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.func.vmap(prediction_loss)(outputs, targets)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=0)
