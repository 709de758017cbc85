"""Mini-batches without replacement, and descent on them."""

from collections import Counter
from random import Random

import pytest
import torch

from fewshot_pl.functional.mini_batches import descended, mini_batches


@pytest.mark.parametrize(("num_items", "batch_size"), [(50, 10), (7, 3), (5, 5), (4, 6)])
def test_no_item_is_ever_two_turns_ahead_of_another(num_items, batch_size):
    batches = mini_batches(num_items, batch_size, 20, Random(1))
    assert batches.shape == (20, batch_size)
    turns = batches.flatten().split(num_items)  # a partial batch is carried over, so shuffles follow without a gap
    assert all(sorted(turn.tolist()) == list(range(num_items)) for turn in turns[:-1])
    assert max(Counter(turns[-1].tolist()).values()) == 1


def test_one_pass_covers_each_image_once():
    assert sorted(mini_batches(50, 10, 5, Random(3)).flatten().tolist()) == list(range(50))


def test_shuffles_differ_and_are_a_function_of_the_seed():
    first, again, other = (mini_batches(9, 9, 2, Random(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_under_vmap_every_task_gets_the_same_batches():
    def drawn(_):
        return mini_batches(9, 4, 3, Random(0))

    mapped = torch.func.vmap(drawn, randomness="different")(torch.zeros(2))
    assert torch.equal(mapped[0], drawn(None)) and torch.equal(mapped[1], mapped[0])


def test_no_batch_leaves_the_point_and_the_state():
    point = torch.ones(3)
    reached, state, figures = descended(None, point, mini_batches(5, 2, 0, Random(0)), None, "state")
    assert (reached is point, state, figures) == (True, "state", [])


def test_descent_takes_a_step_on_each_batch_and_tells_what_was_before_it():
    """The loss is the mean of (point - target)^2 over a batch of targets; the state counts steps."""
    targets = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 2.0]], dtype=torch.float64)

    def loss(point, batch):
        value = (point - batch).square().mean()
        return value, torch.stack([value, batch.sum()])

    start, gradient_at = torch.zeros(1, dtype=torch.float64), torch.func.grad(loss, has_aux=True)

    def step(point, gradient, state):
        return point - 0.25 * state * gradient, state + 1

    point, state, figures = descended(gradient_at, start, targets, step, torch.tensor(1))
    # The means are 2, 6 and 1, with a spread of 1 around them: the gradient is twice the distance to the mean.
    assert point.tolist() == [-1.5] and state == 4  # by way of 1 and 6
    assert torch.stack(figures).tolist() == [[5.0, 4.0], [26.0, 12.0], [26.0, 2.0]]
