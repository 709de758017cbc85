"""Evaluations whose tasks adapt side by side have the outputs and figures of tasks that adapt one by one."""

import pytest
import torch
from episodes import random_episode
from pytorch_lightning import Callback
from quiet_trainer import quiet_trainer
from torch.utils.data import DataLoader

from fewshot_pl.algorithms import MAML, Reptile

OMNIGLOT, COLOUR = (1, 28, 28), (3, 32, 32)
STEPS = {
    MAML: {"num_inner_steps": 3, "inner_lr": 0.05},
    Reptile: {"num_inner_steps_test": 7, "inner_batch_size_test": 4},
}
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def build(algorithm, **arguments):
    torch.manual_seed(0)
    model = algorithm(**{"backbone": "conv4-strided", **STEPS[algorithm], **arguments})
    if algorithm is Reptile:  # so that Adam does not blow up the rounding errors of zero gradients
        model.inner_second_moment.fill_(1)
        model.inner_total_weight.fill_(1)
    return model


class Logits(Callback):
    def __init__(self):
        self.seen = []

    def on_test_batch_end(self, trainer, module, outputs, *_):
        self.seen.append(outputs["logits"])


def evaluated(model, episode, sizes):
    """The figures of a test in batches of these sizes, and all logits."""
    logits = Logits()
    firsts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    batches = [episode.tasks(slice(first, first + size)) for first, size in zip(firsts, sizes, strict=False)]
    figures = quiet_trainer(logits).test(model, DataLoader(batches, batch_size=None), verbose=False)[0]
    return figures, torch.cat(logits.seen)


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        (MAML, {"norm": "transductive"}),
        (MAML, {"norm": "transductive", "compile": True}),  # which trains them one by one
        (MAML, {"norm": "support", "task_parallel": "side_by_side"}),
        (Reptile, {"norm": "transductive"}),
        (Reptile, {"norm": "transductive", "per_query": True}),
        (Reptile, {"norm": "support", "inner_optimizer": "sgd"}),
    ],
)
def test_the_outputs_are_those_of_each_task_by_itself(algorithm, arguments, group_sizes):
    episode = random_episode(6, num_ways=5, num_shots=2, image_shape=OMNIGLOT, dtype=torch.float64)
    found = evaluated(build(algorithm, **arguments).double(), episode, [6])[1]
    assert group_sizes == [4, 4]
    expected = evaluated(build(algorithm, **{**arguments, "task_parallel": "loop"}).double(), episode, [6])[1]
    assert len(group_sizes) == 2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("backbone", "image_shape", "num_ways"),
    [("conv4-strided", OMNIGLOT, 5), ("conv4-strided", OMNIGLOT, 20), ("conv4", COLOUR, 5)],
)
@pytest.mark.parametrize("algorithm", [MAML, Reptile])
def test_batches_and_threads_change_no_figure(algorithm, backbone, image_shape, num_ways, group_sizes, two_threads):
    episode = random_episode(7, num_ways=num_ways, num_shots=1, num_queries=5, image_shape=image_shape)
    model = build(algorithm, image_shape=image_shape, backbone=backbone, num_ways=num_ways)
    figures, logits = evaluated(model, episode, [7])
    for sizes in ([4, 3], [3, 3, 1], [1] * 7):
        others, other_logits = evaluated(model, episode, sizes)
        assert others == figures
        assert torch.equal(other_logits, logits)
    torch.set_num_threads(1)
    assert evaluated(model, episode, [7])[0] == figures
    assert set(group_sizes) == {4}


@pytest.mark.parametrize(
    ("algorithm", "num_shots", "arguments"),
    [
        (MAML, 6, {}),
        (MAML, 1, {"task_parallel": "loop"}),
        (MAML, 1, {"task_chunk": 3}),
        (MAML, 1, {"norm": "running"}),
        (MAML, 1, {"image_shape": (3, 84, 84), "backbone": "conv4"}),
        (Reptile, 1, {"inner_batch_size_test": 30, "num_inner_steps_test": 1, "image_shape": (3, 84, 84)}),
        (Reptile, 1, {"sequential": True}),
        (type("Subclass", (MAML,), {}), 1, {}),
    ],
)
def test_others_are_evaluated_as_before(algorithm, num_shots, arguments, group_sizes, monkeypatch):
    monkeypatch.setitem(STEPS, algorithm, STEPS.get(algorithm, {}))
    image_shape = arguments.get("image_shape", OMNIGLOT)
    episode = random_episode(2, num_ways=5, num_shots=num_shots, num_queries=1, image_shape=image_shape)
    evaluated(build(algorithm, **arguments), episode, [2])
    assert not group_sizes


def test_so_are_tasks_of_no_evaluation(group_sizes):
    episode = random_episode(2, num_ways=5, num_shots=1, image_shape=OMNIGLOT)
    build(MAML).eval()(episode)
    assert not group_sizes
