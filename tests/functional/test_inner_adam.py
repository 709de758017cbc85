"""The inner optimisers against torch.optim, in float64."""

import pytest
import torch

from fewshot_pl.functional.inner_adam import AdamState, MeanState, adam_step, sgd_step


@pytest.fixture
def gradients():
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-9, 2, 30, dtype=torch.float64)  # some of them around epsilon
    return torch.randn(60, 30, dtype=torch.float64, generator=generator) * scales


def states_of(step, gradients, state):
    point = torch.zeros_like(gradients[0])
    for gradient in gradients:
        point, state = step(point, gradient, state, 1e-2)
    return point, state


def reached_by(optimizer_class, gradients, **arguments):
    point = torch.zeros_like(gradients[0])
    optimizer = optimizer_class([point], lr=1e-2, **arguments)
    for gradient in gradients:
        point.grad = gradient
        optimizer.step()
    return point, optimizer.state.get(point)


def fresh(gradients):
    return AdamState(torch.zeros((), dtype=gradients.dtype), torch.zeros_like(gradients[0]))


def test_adam_is_torchs_without_momentum(gradients):
    point, state = states_of(adam_step, gradients, fresh(gradients))
    expected, expected_state = reached_by(torch.optim.Adam, gradients, betas=(0.0, 0.999))
    torch.testing.assert_close(point, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(state.second_moment, expected_state["exp_avg_sq"], rtol=1e-12, atol=0)
    assert state.total_weight == pytest.approx(1 - 0.999 ** int(expected_state["step"]), rel=1e-12)


def test_adam_goes_on_from_a_state(gradients):
    _, halfway = states_of(adam_step, gradients[:25], fresh(gradients))
    point, state = states_of(adam_step, gradients[25:], halfway)
    expected, _ = reached_by(torch.optim.Adam, gradients, betas=(0.0, 0.999))
    first, _ = reached_by(torch.optim.Adam, gradients[:25], betas=(0.0, 0.999))
    torch.testing.assert_close(point, expected - first, rtol=1e-10, atol=1e-14)
    assert state.total_weight == pytest.approx(1 - 0.999 ** len(gradients), rel=1e-12)


def test_the_first_step_is_exact_in_float32():
    gradient = torch.tensor([3.0, -0.5])
    point, _ = adam_step(torch.zeros(2), gradient, fresh(gradient[None]), 1.0)
    torch.testing.assert_close(point, torch.tensor([-1.0, 1.0]), rtol=3e-7, atol=0)  # else 2e-5: 1 - 0.999 in float32


def test_steps_on_one_gradient_stay_of_one_size_in_float32():
    gradient = torch.tensor([3.0, -0.5])
    state = fresh(gradient[None])
    for _ in range(20_000):
        point, state = adam_step(torch.zeros(2), gradient, state, 1.0)
    torch.testing.assert_close(
        point, -gradient.sign(), rtol=5e-5, atol=0
    )  # the second moment alone is rounded by as much


def test_a_mean_of_states_after_other_numbers_of_steps_is_a_state(gradients):
    early, late = (states_of(adam_step, gradients[:1].expand(count, -1), fresh(gradients))[1] for count in (2, 50))
    mean = AdamState(*(0.9 * one + 0.1 * other for one, other in zip(early, late, strict=True)))
    steps = [adam_step(torch.zeros_like(gradients[0]), gradients[0], state, 1e-2)[0] for state in (mean, early)]
    torch.testing.assert_close(*steps, rtol=1e-12, atol=0)


def test_sgd_is_torchs_and_leaves_the_state(gradients):
    state = fresh(gradients)
    point, after = states_of(sgd_step, gradients, state)
    assert after is state
    torch.testing.assert_close(point, reached_by(torch.optim.SGD, gradients)[0], rtol=1e-12, atol=0)


def test_the_mean_state_is_the_mean_over_tasks_however_they_come(gradients):
    mean = MeanState()
    assert mean.state is None
    weight = torch.tensor(0.5)
    for part in torch.split(gradients, [1, 20, 39]):
        mean.add(weight, part)
    torch.testing.assert_close(mean.state, AdamState(weight, gradients.mean(0)), rtol=1e-12, atol=0)
