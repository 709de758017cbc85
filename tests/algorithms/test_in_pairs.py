"""Training on two tasks at a time, each with half of the cores: when it is chosen, and the gradients of a loop."""

import pytest
import torch
from episodes import NUM_WAYS, flat_gradient, random_episode

from fewshot_pl.algorithms import (
    ANIL,
    BOIL,
    MAML,
    PLATIPUS,
    LSTMMetaLearner,
    MetaGAN,
    MetaSGD,
    ProtoNet,
    Reptile,
    side_by_side,
    task_map,
)
from fewshot_pl.algorithms.task_threads import one_by_one
from fewshot_pl.backbones import conv4, conv_block

IMAGE_SHAPE = (3, 16, 16)
BYTES_OF_A_SUPPORT = 2 * NUM_WAYS * 32 * 16 * 16 * 8  # 2 shots, 32 maps of 16x16 in float64
SETTINGS = {
    MAML: {"num_inner_steps": 2},
    ANIL: {"num_inner_steps": 2},
    BOIL: {"num_inner_steps": 2},
    MetaSGD: {"num_inner_steps": 2},
    PLATIPUS: {"num_inner_steps": 2},
    LSTMMetaLearner: {},
    Reptile: {"norm": "running"},  # whose tasks do not go side by side
    MetaGAN: {},
    ProtoNet: {},
}


@pytest.fixture
def together(monkeypatch, two_threads):
    """How many tasks each loop took at a time; the maps of a support outgrow a core's cache by a byte."""
    found, one_by_one = [], task_map.one_by_one

    def noted(network, function, tasks, num_threads):
        found.append(num_threads)
        return one_by_one(network, function, tasks, num_threads)

    for module in task_map, side_by_side:
        monkeypatch.setattr(module, "one_by_one", noted)
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", BYTES_OF_A_SUPPORT - 1)
    return found


@pytest.fixture
def groups_of_two(together, monkeypatch):
    """Two tasks adapt side by side, as caches now hold the maps of many."""
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", 100 * BYTES_OF_A_SUPPORT)
    monkeypatch.setattr(conv4, "_MOST_SIDE_BY_SIDE", 2)
    return together


def step(algorithm=MAML, num_tasks=4, **arguments):
    """The loss and gradient of a training step, and the running statistics after it."""
    torch.manual_seed(0)
    settings = {"image_shape": IMAGE_SHAPE, "backbone": "conv4-32", **SETTINGS[algorithm]}
    if algorithm is not ProtoNet:
        settings["num_ways"] = NUM_WAYS
    model = algorithm(**{**settings, **arguments}).double()
    episode = random_episode(num_tasks, image_shape=IMAGE_SHAPE, dtype=torch.float64)
    torch.manual_seed(1)  # of samples and of generated images
    loss = model.training_losses(episode._replace(known_ways=NUM_WAYS))["loss"]
    return loss.detach(), flat_gradient(loss, model), *model.buffers()


@pytest.mark.parametrize("algorithm", [MAML, ANIL, BOIL, MetaSGD, PLATIPUS, LSTMMetaLearner])
@pytest.mark.parametrize("norm", ["transductive", "running", "support"])
def test_its_gradient_is_that_of_a_loop(algorithm, norm, together):
    if algorithm is LSTMMetaLearner and norm == "support":
        norm = "episode"
    in_pairs, in_a_loop = (step(algorithm, norm=norm, task_parallel=parallel) for parallel in ("auto", "loop"))
    assert together == [2, 1]
    torch.testing.assert_close(in_pairs, in_a_loop, rtol=1e-9, atol=1e-11)


def test_it_repeats_itself_to_the_bit(together):
    torch.testing.assert_close(step(), step(), rtol=0, atol=0)
    assert together == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 2),
        ({"task_chunk": 4}, 2),
        ({"task_chunk": 1}, 1),
        ({"num_tasks": 5}, 1),  # the last one would leave a core without work
        ({"num_tasks": 5, "task_parallel": "threads"}, 2),
        ({"norm": "group"}, 2),
        ({"backbone": "resnet12"}, 1),
        ({"algorithm": ProtoNet}, 1),
        ({"algorithm": MetaGAN}, 1),
        ({"algorithm": Reptile}, 1),
    ],
)
def test_what_trains_in_pairs(arguments, expected, together):
    step(**arguments)
    assert set(together) == {expected}


@pytest.mark.parametrize("algorithm", [MAML, ANIL, BOIL, MetaSGD, PLATIPUS, LSTMMetaLearner])
def test_so_do_tasks_whose_maps_a_cache_holds(algorithm, together, monkeypatch):
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", 100 * BYTES_OF_A_SUPPORT)
    step(algorithm, norm="group")  # else tasks of MAML go side by side
    assert together == [2]


@pytest.mark.parametrize(("num_threads", "expected"), [(1, 1), (3, 1), (4, 2)])
def test_all_cores_have_work(num_threads, expected, together):
    torch.set_num_threads(num_threads)  # the fixture sets it back
    step(norm="group")  # else tasks go side by side where many cores have large caches
    assert together == [expected]


@pytest.mark.parametrize("norm", ["transductive", "support"])
@pytest.mark.parametrize("first_order", [False, True])
def test_so_do_groups_of_tasks_side_by_side(norm, first_order, groups_of_two):
    in_pairs = step(norm=norm, first_order=first_order)
    in_a_loop = step(norm=norm, first_order=first_order, task_parallel="loop")
    assert groups_of_two == [2, 1]
    torch.testing.assert_close(in_pairs, in_a_loop, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(step(norm=norm, first_order=first_order), in_pairs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "num_threads", "expected"),
    [
        ({}, 2, 2),
        ({"num_tasks": 8}, 2, 2),
        ({"task_chunk": 4}, 2, 2),
        ({"task_chunk": 3}, 2, 1),  # no room for two groups
        ({"num_tasks": 2}, 2, 1),  # one group
        ({"num_tasks": 6}, 2, 1),  # three groups
        ({"num_tasks": 7}, 2, 1),  # the last group is smaller
        ({"task_parallel": "side_by_side", "task_chunk": 2}, 2, 1),
        ({}, 1, 1),
        ({}, 3, 1),
        ({}, 4, 2),
    ],
)
def test_which_groups_train_in_pairs(arguments, num_threads, expected, groups_of_two):
    torch.set_num_threads(num_threads)
    step(**arguments)
    assert groups_of_two == [expected]


def test_other_threads_do_not_spin_beside_the_tasks(two_threads):
    before, network, tasks = torch.get_num_threads(), torch.nn.Linear(1, 1), [(torch.ones(1),)] * 4
    found = one_by_one(network, lambda network, task: torch.get_num_threads(), tasks, num_threads=2)
    seen = [(of_task, torch.get_num_threads()) for of_task in found]
    assert seen == [(1, 1)] * 4, "an operation of several threads would keep them spinning"
    assert torch.get_num_threads() == before == 2
    stopped = one_by_one(network, lambda network, task: 1 / 0, tasks, num_threads=2)
    with pytest.raises(ZeroDivisionError):
        next(stopped)
    assert torch.get_num_threads() == 2
