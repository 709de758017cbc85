"""The contract of an algorithm: every row of the table passes through every test."""

import copy
import hashlib
from typing import NamedTuple

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode
from pytorch_lightning import Callback
from quiet_trainer import quiet_trainer
from torch.utils.data import DataLoader

from fewshot_pl import algorithms
from fewshot_pl.algorithms import (
    ANIL,
    BOIL,
    MAML,
    PLATIPUS,
    FewShotAlgorithm,
    LSTMMetaLearner,
    MatchingNet,
    MetaGAN,
    MetaSGD,
    ProtoNet,
    RelationNet,
    Reptile,
)
from fewshot_pl.backbones.normalization import episodic_norms
from fewshot_pl.episode import Episode

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
]


class Row(NamedTuple):
    algorithm: type[FewShotAlgorithm]
    arguments: dict
    support_order_matters: bool = False
    learning_rate: float = 3e-3  # at which ten steps train visibly
    falls_with_training: str = "loss"
    rounding: float = 1e-11  # what float64 may leave between a loop and vmap


_MAML = {"num_ways": NUM_WAYS, "inner_lr": 0.05, "num_inner_steps": 2}
_PLATIPUS = {**_MAML, "num_inner_steps": 1, "num_samples": 2}
_FCE_MEAN = {"full_context": True, "num_context_steps": 1, "first_read_out": "mean", "norm": "support"}
_LSTM = {"num_ways": NUM_WAYS, "num_inner_steps": 2}
_REPTILE = {"num_ways": NUM_WAYS, "inner_lr": 3e-3, "num_inner_steps": 3, "num_inner_steps_test": 3}
_WHOLE_SUPPORT = {"inner_batch_size_test": 2 * NUM_WAYS}  # otherwise batches are drawn by the images' positions
_METAGAN = {**_MAML, "generator_width": 4}
_METAGAN_RELATION = {"classifier": "relation_net", "backbone": "conv4-maps", "generator_width": 4}
_METAGAN_TRAINS = {"falls_with_training": "discriminator_loss"}  # what one player wins, the other loses
# Reptile's loss is half the squared distance to where training on a task leads, which may be as far from any point.
_REPTILE_TRAINS = {"learning_rate": 1.0, "falls_with_training": "inner_loss"}
# Where a gradient is zero except for rounding, as before batch norm, Adam's first steps divide it by epsilon, 1e-8.
_REPTILE_ADAM = {**_REPTILE_TRAINS, "rounding": 1e-8}
ROWS = {
    "ProtoNet": Row(ProtoNet, {}),
    "ProtoNet-cosine": Row(ProtoNet, {"distance": "cosine", "norm": "support"}),
    "ProtoNet-transductive": Row(ProtoNet, {"norm": "transductive", "divide_by_dimension": True}),
    "ProtoNet-group": Row(ProtoNet, {"norm": "group"}),
    "MatchingNet": Row(MatchingNet, {}),
    "MatchingNet-scale": Row(MatchingNet, {"learnable_scale": True, "norm": "transductive"}),
    "MatchingNet-FCE": Row(MatchingNet, {"full_context": True}, support_order_matters=True),
    "MatchingNet-FCE-mean": Row(MatchingNet, _FCE_MEAN, support_order_matters=True),
    "RelationNet": Row(RelationNet, {"backbone": "conv4-maps"}),
    "RelationNet-running": Row(RelationNet, {"backbone": "conv4-maps", "norm": "running"}),
    "RelationNet-support": Row(RelationNet, {"backbone": "conv4-maps", "norm": "support"}),
    "RelationNet-group": Row(RelationNet, {"backbone": "conv4-maps", "norm": "group", "max_gradient_norm": 0}),
    "MAML": Row(MAML, _MAML),
    "MAML-running": Row(MAML, {**_MAML, "norm": "running"}),
    "MAML-support": Row(MAML, {**_MAML, "norm": "support", "num_inner_steps_test": 3}),
    "MAML-layer": Row(MAML, {**_MAML, "norm": "layer", "inner_loss_reduction": "mean"}),
    "FOMAML": Row(MAML, {**_MAML, "first_order": True, "backbone": "conv4-32-strided"}),
    "ANIL": Row(ANIL, _MAML),
    "ANIL-running": Row(ANIL, {**_MAML, "norm": "running", "num_inner_steps_test": 3}),
    "ANIL-support-first-order": Row(ANIL, {**_MAML, "norm": "support", "first_order": True}),
    "BOIL": Row(BOIL, _MAML),
    "BOIL-running": Row(BOIL, {**_MAML, "norm": "running", "num_inner_steps_test": 3}),
    "MetaSGD": Row(MetaSGD, _MAML),
    "MetaSGD-support": Row(MetaSGD, {**_MAML, "norm": "support", "num_inner_steps": 1}),
    "PLATIPUS": Row(PLATIPUS, _PLATIPUS),
    "PLATIPUS-running": Row(PLATIPUS, {**_PLATIPUS, "norm": "running", "gamma": "scalar"}),
    "PLATIPUS-support": Row(PLATIPUS, {**_PLATIPUS, "norm": "support", "num_training_samples": 2}),
    "PLATIPUS-group": Row(PLATIPUS, {**_PLATIPUS, "norm": "group", "num_inner_steps_test": 3}),
    "PLATIPUS-first-order": Row(PLATIPUS, {**_PLATIPUS, "first_order": True, "backbone": "conv4-32-strided"}),
    "MetaGAN": Row(MetaGAN, _METAGAN, **_METAGAN_TRAINS),
    "MetaGAN-running": Row(
        MetaGAN, {**_METAGAN, "norm": "running", "first_order": True}, learning_rate=0.01, **_METAGAN_TRAINS
    ),
    "MetaGAN-support": Row(MetaGAN, {**_METAGAN, "norm": "support", "num_inner_steps_test": 3}, **_METAGAN_TRAINS),
    "MetaGAN-group": Row(MetaGAN, {**_METAGAN, "norm": "group", "real_weight": 0}, **_METAGAN_TRAINS),
    "MetaGAN-relation": Row(MetaGAN, _METAGAN_RELATION, **_METAGAN_TRAINS),
    "MetaGAN-relation-running": Row(MetaGAN, {**_METAGAN_RELATION, "norm": "running"}, **_METAGAN_TRAINS),
    "MetaGAN-relation-support": Row(MetaGAN, {**_METAGAN_RELATION, "norm": "support"}, **_METAGAN_TRAINS),
    "Reptile": Row(Reptile, {**_REPTILE, **_WHOLE_SUPPORT}, **_REPTILE_ADAM),
    "Reptile-batches": Row(
        Reptile, {**_REPTILE, "inner_batch_size_test": 4}, support_order_matters=True, **_REPTILE_ADAM
    ),
    "Reptile-per-query": Row(
        Reptile,
        {**_REPTILE, **_WHOLE_SUPPORT, "per_query": True, "backbone": "conv4-strided-flat"},
        **_REPTILE_ADAM,
    ),
    "Reptile-sequential": Row(
        Reptile, {**_REPTILE, **_WHOLE_SUPPORT, "sequential": True, "inner_loss_reduction": "mean"}, **_REPTILE_ADAM
    ),
    "Reptile-running": Row(Reptile, {**_REPTILE, **_WHOLE_SUPPORT, "norm": "running"}, **_REPTILE_ADAM),
    "Reptile-support": Row(Reptile, {**_REPTILE, **_WHOLE_SUPPORT, "norm": "support"}, **_REPTILE_ADAM),
    "Reptile-group-sgd": Row(
        Reptile,
        {**_REPTILE, **_WHOLE_SUPPORT, "norm": "group", "inner_optimizer": "sgd", "inner_lr": 0.02},
        **_REPTILE_TRAINS,
    ),
    "LSTMMetaLearner": Row(LSTMMetaLearner, {**_LSTM, "norm_momentum": 0.9}),
    "LSTMMetaLearner-as-in-code": Row(
        LSTMMetaLearner, {**_LSTM, "gate_recursion": "pre_activations", "divide_by_batch": True}
    ),
    "LSTMMetaLearner-running": Row(LSTMMetaLearner, {**_LSTM, "norm": "running", "num_inner_steps_test": 3}),
    "LSTMMetaLearner-transductive": Row(LSTMMetaLearner, {**_LSTM, "norm": "transductive"}),
    "LSTMMetaLearner-support": Row(LSTMMetaLearner, {**_LSTM, "norm": "support", "max_gradient_norm": 0}),
    "LSTMMetaLearner-group": Row(LSTMMetaLearner, {**_LSTM, "norm": "group", "hidden_size": 5}),
}


PLAIN_ROWS = {name: row for name, row in ROWS.items() if "-" not in name or name == "MetaGAN-relation"}
# Reptile's loss is a distance between weights, whose gradient needs no backward pass through a network.
ROWS_OF_BACKWARD_PASSES = {name: row for name, row in ROWS.items() if row.algorithm is not Reptile}


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request):
    return request.param


@pytest.fixture(params=["loop", "vmap"])
def task_parallel(request):
    return request.param


def build(row, **arguments):
    """The row's algorithm with the same weights at every call."""
    torch.manual_seed(0)
    return row.algorithm(**{"image_shape": IMAGE_SHAPE, "backbone": "conv4-32", **row.arguments, **arguments})


class StopAfterAnEpoch(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def loader(num_batches, **arguments):
    episodes = [random_episode(seed=seed, **arguments)._replace(known_ways=NUM_WAYS) for seed in range(num_batches)]
    return DataLoader(episodes, batch_size=None)


def state_hash(model):
    """A hash of every bit of the parameters and buffers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    content = b"".join(name.encode() + tensor.detach().numpy().tobytes() for name, tensor in tensors)
    return hashlib.sha256(content).hexdigest()


def reordered(episode, *, support=None, query=None):
    """The episode with its support or query images in another order."""
    everything = slice(None)
    support, query = everything if support is None else support, everything if query is None else query
    support_x, support_y, query_x, query_y = episode[:4]
    return Episode(support_x[:, support], support_y[:, support], query_x[:, query], query_y[:, query])


def trained_running_statistics(model):
    """One training pass, so that running statistics, where there are any, are not the initial ones."""
    model.train()(random_episode(dtype=torch.float64, seed=9))
    return model.eval()


def test_every_algorithm_has_a_row():
    names = {row.algorithm.__name__ for row in ROWS.values()}
    assert names == set(algorithms.__all__) - {"FewShotAlgorithm"}


def test_logits_are_finite_and_one_per_query_and_class(row, task_parallel):
    episode = random_episode(num_queries=4)
    logits = build(row, task_parallel=task_parallel)(episode)
    assert logits.shape == (episode.num_tasks, NUM_WAYS * 4, NUM_WAYS)
    assert logits.isfinite().all()


def test_order_of_queries_orders_the_logits(row):
    model = trained_running_statistics(build(row).double())
    episode = random_episode(dtype=torch.float64)
    order = torch.randperm(episode.query_y.shape[1])
    torch.testing.assert_close(model(reordered(episode, query=order)), model(episode)[:, order], rtol=0, atol=1e-11)


def test_queries_influence_each_other_only_in_transductive_mode(row):
    model = trained_running_statistics(build(row).double())
    episode = random_episode(dtype=torch.float64)
    first_half = slice(0, episode.query_y.shape[1] // 2)
    alone, in_company = model(reordered(episode, query=first_half)), model(episode)[:, first_half]
    difference = (alone - in_company).abs().max()
    assert difference > 1e-3 * in_company.std() if model.norm_mode == "transductive" else difference < 1e-11


def test_order_of_the_support_does_not_matter(row):
    model = trained_running_statistics(build(row).double())
    episode = random_episode(dtype=torch.float64)
    order = torch.randperm(episode.support_y.shape[1])
    difference = (model(reordered(episode, support=order)) - model(episode)).abs().max()
    assert difference > 1e-6 if row.support_order_matters else difference < 1e-10


def test_labels_of_the_support_matter(row):
    episode = random_episode()
    model = build(row).eval()
    assert not torch.allclose(model(episode._replace(support_y=episode.support_y.flip(1))), model(episode))


def test_a_task_does_not_see_the_others(row, task_parallel):
    model = build(row, task_parallel=task_parallel).double()
    episode = random_episode(dtype=torch.float64, num_tasks=3)
    alone = model(episode.tasks(slice(1, 2)))
    torch.testing.assert_close(alone, model(episode)[1:2], rtol=0, atol=1e-11)


def losses_logits_gradients_and_buffers(row, **arguments):
    model = build(row, **arguments).double()
    episode = random_episode(dtype=torch.float64, num_tasks=3)
    losses = model.training_losses(episode)
    losses["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return losses, model.eval()(episode), gradients, dict(model.named_buffers())


def test_loop_equals_vmap(row):
    looped = losses_logits_gradients_and_buffers(row, task_parallel="loop")
    vmapped = {
        task_chunk: losses_logits_gradients_and_buffers(row, task_parallel="vmap", task_chunk=task_chunk)
        for task_chunk in (None, 2)
    }
    torch.testing.assert_close(vmapped, dict.fromkeys(vmapped, looped), rtol=1e-9, atol=row.rounding)


def test_every_parameter_gets_a_gradient(row, task_parallel):
    model = build(row, task_parallel=task_parallel)
    model.training_losses(random_episode())["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_lowers_the_loss_of_a_fixed_episode(row, task_parallel):
    model = build(row, task_parallel=task_parallel, learning_rate=row.learning_rate)
    episode = random_episode()
    before = model.training_losses(episode)[row.falls_with_training]
    quiet_trainer(max_steps=10).fit(model, DataLoader([episode] * 10, batch_size=None))
    assert model.train().training_losses(episode)[row.falls_with_training] < 0.8 * before


def test_training_leaves_nothing_of_a_pass_behind(row, task_parallel):
    model = build(row, task_parallel=task_parallel)
    quiet_trainer(max_steps=2).fit(model, loader(2))
    for layer in episodic_norms(model):
        assert (layer.num_support, layer.vectorised, layer.observed) == (None, False, None)
        assert (layer.observing, layer.given, layer.twice_differentiated) == (False, None, False)
    twin = copy.deepcopy(model)  # fails where a tensor of vmap, or of a graph, is still attached to a module
    assert state_hash(twin) == state_hash(model)


def test_evaluation_changes_no_bit_of_the_model(row, task_parallel):
    model = build(row, task_parallel=task_parallel)
    quiet_trainer(max_steps=1).fit(model, loader(1))  # running statistics that a test could spoil
    before = state_hash(model)
    assert before != state_hash(build(row)), "the hash sees training"
    quiet_trainer().validate(model, loader(2), verbose=False)
    quiet_trainer().test(model, loader(2), verbose=False)
    assert state_hash(model) == before


def test_fit_validate_and_test_under_a_default_trainer(row, task_parallel):
    model = build(row, task_parallel=task_parallel)
    fitting = quiet_trainer(max_epochs=1)
    fitting.fit(model, loader(2), loader(2))
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/ci95"} <= fitting.callback_metrics.keys()
    for stage, metrics in (
        ("val", quiet_trainer().validate(model, loader(2), verbose=False)[0]),
        ("test", quiet_trainer().test(model, loader(2), verbose=False)[0]),
    ):
        assert metrics.keys() == {f"{stage}/{figure}" for figure in ("loss", "accuracy", "ci95", "nll", "ece", "brier")}
        assert 0 <= metrics[f"{stage}/accuracy"] <= 1
        assert torch.tensor(list(metrics.values())).isfinite().all()


def test_checkpoint_loads_without_arguments(row, tmp_path):
    model = build(row)
    fitting = quiet_trainer(max_steps=2)
    fitting.fit(model, loader(2))
    path = tmp_path / "model.ckpt"
    fitting.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["algorithm"] == row.algorithm.__name__

    loaded = row.algorithm.load_from_checkpoint(path, weights_only=True)
    assert dict(loaded.hparams) == dict(model.hparams)
    assert state_hash(loaded) == state_hash(model)
    episode = random_episode()
    torch.testing.assert_close(loaded.eval()(episode), model.eval()(episode), rtol=0, atol=0)


def test_resumed_training_goes_on_as_if_never_stopped(row, tmp_path, two_threads):
    episodes = loader(2)
    in_one_go, first_half = build(row), build(row)
    quiet_trainer(max_epochs=2).fit(in_one_go, episodes)
    halting = quiet_trainer(StopAfterAnEpoch(), max_epochs=2)  # planned as long, as a schedule may depend on it
    halting.fit(first_half, episodes)
    halting.save_checkpoint(tmp_path / "half.ckpt")
    resumed = build(row)
    quiet_trainer(max_epochs=2).fit(resumed, episodes, ckpt_path=tmp_path / "half.ckpt")
    assert state_hash(resumed) == state_hash(in_one_go)


def test_bfloat16_gives_about_the_gradient_of_float32(row, task_parallel):
    def gradient(autocast):
        model = build(row, task_parallel=task_parallel)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model.training_losses(random_episode())["loss"]
        return flat_gradient(loss, model)

    exact, rounded = gradient(autocast=False), gradient(autocast=True)
    assert rounded.dtype == torch.float32
    # Rounding only the images turns MAML's gradient as far, as batch norm divides by the spread of six numbers.
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.6


@pytest.mark.parametrize(("task_parallel", "task_chunk"), [("loop", None), ("vmap", 1)])
@pytest.mark.parametrize("row", ROWS_OF_BACKWARD_PASSES.values(), ids=ROWS_OF_BACKWARD_PASSES.keys())
def test_gradients_taken_some_tasks_at_a_time_know_no_autocast(row, task_parallel, task_chunk):
    """Neither does a backward pass, which Lightning runs outside of it."""
    episode = random_episode()

    def gradient(known_ways):
        model = build(row, task_parallel=task_parallel, task_chunk=task_chunk)
        batch = episode._replace(known_ways=known_ways)
        assert model.accumulates_task_gradients(batch) == (known_ways is not None)
        torch.manual_seed(1)  # of generated images and of samples
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.training_losses(batch)["loss"]
        return flat_gradient(loss, model)

    in_parts, at_once = gradient(NUM_WAYS), gradient(None)
    # The sum over tasks is rounded to bfloat16 once, a 256th at most, where tasks share weights that were rounded.
    assert (in_parts - at_once).norm() < 3e-3 * at_once.norm()


def test_trains_and_tests_in_mixed_precision(row, two_threads):
    model = build(row)
    quiet_trainer(max_steps=2, precision="bf16-mixed").fit(model, loader(2), loader(1))
    metrics = quiet_trainer(precision="bf16-mixed").test(model, loader(1), verbose=False)[0]
    assert torch.tensor(list(metrics.values())).isfinite().all()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ROWS)
def test_gradients_taken_some_tasks_at_a_time_are_those_of_all_together(name, two_threads):
    """If all tasks are known to have labels, a loop keeps only one task in memory, other ways a few."""
    row, episode = ROWS[name], random_episode(num_tasks=3, dtype=torch.float64)

    def step(batch, task_parallel, task_chunk=None):
        model = build(row, task_parallel=task_parallel, task_chunk=task_chunk).double()
        torch.manual_seed(1)  # of generated images and of samples
        loss = model.training_losses(batch)["loss"]
        gradient = flat_gradient(loss, model)
        with torch.inference_mode():
            return [loss, gradient, *model.buffers(), model.eval()(batch)]

    all_together = step(episode, "loop")
    ways = [("loop", None), ("vmap", 1), ("vmap", 2), *([("threads", None)] if name in PLAIN_ROWS else [])]
    for task_parallel, task_chunk in ways:
        some_at_a_time = step(episode._replace(known_ways=NUM_WAYS), task_parallel, task_chunk)
        rounding = row.rounding if task_parallel == "vmap" else 1e-12
        torch.testing.assert_close(some_at_a_time, all_together, rtol=1e-9, atol=rounding)


def test_vmap_takes_the_gradient_of_a_chunk_before_the_next_passes(monkeypatch):
    model = ProtoNet(image_shape=IMAGE_SHAPE, task_parallel="vmap", task_chunk=2)
    events, logits, gradient = [], model.query_logits, torch.autograd.grad
    monkeypatch.setattr(model, "query_logits", lambda *task: events.append("pass") or logits(*task))
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: events.append("gradient") or gradient(*args, **kw))
    model.training_losses(random_episode(num_tasks=5)._replace(known_ways=NUM_WAYS))
    assert events == ["pass", "gradient"] * 3


@pytest.mark.parametrize(
    ("num_tasks", "task_chunk", "expected"), [(1, None, []), (2, None, [1]), (2, 1, []), (2, 2, [1])]
)
def test_a_task_by_itself_is_trained_without_vmap(num_tasks, task_chunk, expected, monkeypatch):
    monkeypatch.setattr(ProtoNet, "vectorises", True)  # as on a GPU
    calls, vmap = [], torch.func.vmap
    monkeypatch.setattr(torch.func, "vmap", lambda *args, **kwargs: calls.append(1) or vmap(*args, **kwargs))
    episode = random_episode(num_tasks=num_tasks)._replace(known_ways=NUM_WAYS)
    ProtoNet(image_shape=IMAGE_SHAPE, task_chunk=task_chunk).training_losses(episode)["loss"].backward()
    assert calls == expected


@pytest.mark.parametrize("row", PLAIN_ROWS.values(), ids=PLAIN_ROWS.keys())
def test_threads_repeat_themselves_to_the_bit(row, two_threads):
    episode = random_episode(num_tasks=5)._replace(known_ways=NUM_WAYS)

    def step():
        model = build(row, task_parallel="threads")
        torch.manual_seed(1)
        gradient = flat_gradient(model.training_losses(episode)["loss"], model)
        with torch.inference_mode():
            return gradient, model.eval()(episode)

    torch.testing.assert_close(step(), step(), rtol=0, atol=0)


def one_task(episode):
    """The first task, without the leading T."""
    return Episode(*(field[0] for field in episode[:4]))


def test_a_predictor_gives_the_logits_of_one_task_again_and_again(row):
    """Also where classes have different numbers of support images."""
    model = trained_running_statistics(build(row).double())
    task, others = (one_task(random_episode(dtype=torch.float64, num_shots=3, seed=seed)) for seed in (0, 1))
    support = task.support_x[:-2], task.support_y[:-2]
    predictor = model.predictor(*support, NUM_WAYS)
    for query_x in (task.query_x, others.query_x[:4], task.query_x):
        expected = model.query_logits(*support, query_x, NUM_WAYS)
        torch.testing.assert_close(predictor(query_x), expected, rtol=0, atol=1e-12)
        assert expected.isfinite().all()
