"""The norm modes against torch's own batch norm and against what each of them promises, in float64."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from torch import nn
from torch.nn import functional as F

from fewshot_pl.algorithms import MAML, ProtoNet, Reptile
from fewshot_pl.backbones.normalization import (
    EpisodicBatchNorm2d,
    episodic_norms,
    given_statistics,
    norm_layer,
    observed_statistics,
)
from fewshot_pl.backbones.passes import observing, second_order_pass, support_rows, vectorised_pass
from fewshot_pl.backbones.replaced_norms import replace_batch_norms
from fewshot_pl.backbones.running_norms import taken_statistics
from fewshot_pl.errors import InputError

NUM_CHANNELS = 6
STATISTICS_MODES = ["transductive", "running", "support"]


@pytest.fixture
def maps():
    return random_maps(seed=0)


def random_maps(seed, num_images=5):
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(num_images, NUM_CHANNELS, 4, 4, dtype=torch.float64, generator=generator)


def with_random_affine(layer):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(NUM_CHANNELS, generator=generator))
    return layer.double()


def ours(mode):
    return with_random_affine(norm_layer(mode, NUM_CHANNELS))


def torchs(**options):
    return with_random_affine(nn.BatchNorm2d(NUM_CHANNELS, **options))


def assert_equal(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# What each mode promises -----------------------------------------------------------------------------


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("mode", STATISTICS_MODES)
def test_one_value_per_channel_has_no_variance(mode, vectorised):
    layer = ours(mode)
    layer.vectorised = vectorised
    with support_rows(layer, 1), pytest.raises(InputError, match="batch norm has no variance"):
        layer(torch.ones(1, NUM_CHANNELS, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False])
def test_transductive_is_the_batchs_own_statistics_always(maps, training):
    layer = ours("transductive").train(training)
    assert_equal(layer(maps), torchs(track_running_stats=False)(maps))
    assert list(layer.buffers()) == []


def test_running_is_torchs_batch_norm_over_several_steps():
    layer, reference = ours("running"), torchs()
    for step in range(3):
        maps = random_maps(step)
        assert_equal(layer(maps), reference(maps))
        layer.update_running(*layer.take_observed())
        assert_equal(layer.running_mean, reference.running_mean)
        assert_equal(layer.running_var, reference.running_var)  # of the unbiased variance
    assert_equal(layer.eval()(maps), reference.eval()(maps))


def test_running_does_not_change_in_evaluation(maps):
    layer = ours("running").eval()
    before = copy.deepcopy(layer.state_dict())
    alone = layer(maps[:1])
    assert_equal(layer(maps)[:1], alone)
    assert layer.observed is None
    assert_equal(layer.state_dict(), before, tolerance=0)


@pytest.mark.parametrize("training", [True, False])
def test_support_takes_its_statistics_from_the_support_alone(maps, training):
    layer, reference = ours("support").train(training), torchs(track_running_stats=False)
    with support_rows(layer, 3):
        normed = layer(maps)
        assert_equal(layer(maps[:4]), normed[:4])  # one query fewer changes nothing
    assert_equal(normed[:3], reference(maps[:3]))
    mean, variance = maps[:3].mean((0, 2, 3)), maps[:3].var((0, 2, 3), correction=0)
    queries = F.batch_norm(maps[3:], mean, variance, layer.weight, layer.bias, training=False, eps=layer.eps)
    assert_equal(normed[3:], queries)
    assert list(layer.buffers()) == []


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_episode_is_the_batchs_own_statistics_until_others_are_given(maps, training, vectorised):
    layer, reference = ours("episode").train(training), torchs(momentum=1.0)
    layer.vectorised = vectorised
    assert_equal(layer(maps), reference(maps))
    assert layer.observed is None, "only passes of the support are observed"
    with observing(layer):
        assert_equal(layer(maps), reference(maps))
    statistics = observed_statistics(layer)
    assert_equal(statistics, (reference.running_mean, reference.running_var))  # of the unbiased variance
    with given_statistics(layer, statistics):
        assert_equal(layer(random_maps(1)), reference.eval()(random_maps(1)))
    assert_equal(layer(maps), reference.train()(maps))
    assert (list(layer.buffers()), layer.observed, layer.given) == ([], None, None)


def test_observed_statistics_are_those_of_the_mode(maps):
    network = nn.Sequential(ours("running"), ours("episode"))
    with observing(network):
        network(maps)
    assert len(observed_statistics(network)) == 2
    mean, _, has_observed = taken_statistics(network)
    assert_equal(mean, maps.mean((0, 2, 3)))
    assert has_observed.tolist() == [True] and taken_statistics(network)[-1].tolist() == [False]


def test_norm_episode_needs_every_layer_in_a_pass(maps):
    network = nn.Sequential(ours("episode"), ours("episode"))
    with observing(network):
        network[0](maps)
    with pytest.raises(InputError, match=r"takes no part in a pass over the support, .*: pass --model.norm support"):
        observed_statistics(network)


@pytest.mark.parametrize("algorithm", [ProtoNet, MAML, Reptile])
def test_norm_episode_needs_an_algorithm_that_carries_its_statistics(algorithm):
    with pytest.raises(InputError, match=r"LSTMMetaLearner alone: pass --model.norm support"):
        algorithm(norm="episode")


@pytest.mark.parametrize(("mode", "num_groups"), [("layer", 1), ("group", 6)])
def test_group_and_layer_norm_see_one_image_at_a_time(maps, mode, num_groups):
    layer = ours(mode)
    assert_equal(layer(maps), F.group_norm(maps, num_groups, layer.weight, layer.bias))
    assert_equal(layer(maps[:1]), layer(maps)[:1])


@pytest.mark.parametrize(("num_channels", "num_groups"), [(64, 8), (32, 8), (12, 6), (7, 7), (27, 3), (11, 1)])
def test_group_norm_has_the_most_groups_up_to_eight_that_divide_the_channels(num_channels, num_groups):
    assert norm_layer("group", num_channels).num_groups == num_groups


def test_unknown_modes_are_refused():
    with pytest.raises(InputError, match=r"norm must be one of transductive, .*, none, not 'x'"):
        norm_layer("x", 8)


# Under vmap ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", STATISTICS_MODES)
def test_the_path_for_vmap_equals_the_fused_one(mode, maps):
    layer = ours(mode)

    def passed():
        with support_rows(layer, 3):
            normed = layer(maps.requires_grad_())
        loss = normed.sin().sum()
        inputs = [maps, layer.weight, layer.bias]
        gradients = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in gradients), inputs)
        return normed, gradients, second, layer.take_observed() if mode == "running" else None

    fused = passed()
    with vectorised_pass(layer):
        assert layer.vectorised
        assert_equal(passed(), fused)


@pytest.mark.parametrize("mode", ["group", "layer"])
def test_group_and_layer_norm_take_channels_last_maps_under_vmap(mode, maps):
    # torch's own group norm raises an exception there.
    network = nn.Sequential(nn.Conv2d(NUM_CHANNELS, NUM_CHANNELS, 3), norm_layer(mode, NUM_CHANNELS)).double()
    network.to(memory_format=torch.channels_last)
    tasks = torch.stack([maps, -maps])
    assert_equal(torch.func.vmap(network)(tasks), torch.stack([network(task) for task in tasks]))


# Statistics of several tasks -------------------------------------------------------------------------


def protonet(norm, **arguments):
    torch.manual_seed(0)
    return ProtoNet(image_shape=IMAGE_SHAPE, backbone="conv4-32", norm=norm, **arguments)


def maml(norm, **arguments):
    torch.manual_seed(0)
    settings = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", "norm": norm}
    return MAML(**settings, inner_lr=0.05, num_inner_steps=2, **arguments)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_training_moves_running_statistics_by_the_mean_over_tasks(task_parallel):
    episode = random_episode(num_tasks=3, dtype=torch.float64)
    model = protonet("running", task_parallel=task_parallel).double()
    conv, layer = model.backbone.blocks[0].conv, model.backbone.blocks[0].norm
    before = copy.deepcopy(dict(layer.named_buffers()))
    images = torch.cat([episode.support_x, episode.query_x], dim=1)  # [T, n, C, H, W]
    maps = torch.stack([conv(task) for task in images]).transpose(1, 2).flatten(2)  # [T, C, n*H*W]
    model.train()(episode)
    assert_equal(layer.running_mean, (0.9 * before["running_mean"] + 0.1 * maps.mean(2).mean(0)).detach())
    assert_equal(layer.running_var, (0.9 * before["running_var"] + 0.1 * maps.var(2).mean(0)).detach())


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_one_task_trains_as_with_torchs_batch_norm(task_parallel):
    model = protonet("running", task_parallel=task_parallel).double()
    reference = protonet("running").double()
    with_torchs_batch_norms(reference.backbone)
    for seed in range(2):
        episode = random_episode(num_tasks=1, seed=seed, dtype=torch.float64)
        assert_equal(model.train()(episode), reference.train()(episode), tolerance=1e-10)
    ours, theirs = (dict(m.backbone.named_buffers()) for m in (model, reference))
    assert_equal(ours, {name: buffer for name, buffer in theirs.items() if "num_batches" not in name})
    assert_equal(model.eval()(episode), reference.eval()(episode), tolerance=1e-10)


def with_torchs_batch_norms(module):
    for name, child in module.named_children():
        if isinstance(child, EpisodicBatchNorm2d):
            batch_norm = nn.BatchNorm2d(child.weight.numel()).double()
            batch_norm.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, batch_norm)
        else:
            with_torchs_batch_norms(child)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_maml_keeps_the_statistics_of_the_adapted_queries(task_parallel):
    # The inner passes over the support must not leak into the meta-model's statistics.
    model = maml("running", task_parallel=task_parallel).double()
    episode = random_episode(num_tasks=2, dtype=torch.float64)
    conv, layer = model.learner.backbone.blocks[0].conv, model.learner.backbone.blocks[0].norm
    means = []
    for support_x, support_y, query_x, _ in zip(*episode[:4], strict=True):
        phi = model.adapted(support_x, support_y, model.num_steps)
        weight, bias = (phi[f"backbone.blocks.0.conv.{name}"] for name in ("weight", "bias"))
        means.append(F.conv2d(query_x, weight, bias, padding=conv.padding).mean((0, 2, 3)))
    model(episode)
    assert_equal(layer.running_mean, 0.1 * torch.stack(means).mean(0).detach())


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("norm", STATISTICS_MODES)
@pytest.mark.parametrize("build", [protonet, maml])
def test_a_trained_model_is_copied_and_pickled(build, norm, task_parallel):
    model = build(norm, task_parallel=task_parallel)
    model.training_losses(random_episode())["loss"].backward()
    for layer in episodic_norms(model):
        assert (layer.num_support, layer.vectorised, layer.observed) == (None, False, None)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_equal(twin.state_dict(), model.state_dict(), tolerance=0)


def test_a_failed_pass_leaves_the_layers_as_they_were():
    layer = ours("support")
    with pytest.raises(ZeroDivisionError), support_rows(layer, 2), vectorised_pass(layer):
        assert (layer.num_support, layer.vectorised) == (2, True)
        _ = 1 / 0
    assert (layer.num_support, layer.vectorised) == (None, False)


# In place of torch's ---------------------------------------------------------------------------------


def trained_batch_norm():
    batch_norm = torchs(eps=1e-3, momentum=0.3)
    batch_norm(random_maps(5))
    return batch_norm.float().double()  # replacements start in float32


@pytest.mark.parametrize("mode", ["running", "transductive"])
def test_replacements_compute_what_the_batch_norm_did(mode, maps):
    network = nn.Sequential(nn.Sequential(trained_batch_norm()))
    replace_batch_norms(network, mode)
    layer, reference = network[0][0], trained_batch_norm()
    assert isinstance(layer, EpisodicBatchNorm2d)
    assert (layer.eps, layer.momentum) == (1e-3, 0.3)
    network.double()
    if mode == "running":
        assert_equal(network.eval()(maps), reference.eval()(maps))
    assert_equal(network.train()(maps), reference.train()(maps))


@pytest.mark.parametrize("mode", ["group", "layer", "support"])
def test_replacements_keep_scale_and_shift(mode):
    network = nn.Sequential(trained_batch_norm())
    replace_batch_norms(network, mode)
    reference = trained_batch_norm().float()
    assert torch.equal(network[0].weight, reference.weight)
    assert torch.equal(network[0].bias, reference.bias)


@pytest.mark.parametrize("mode", ["running", "transductive", "group"])
def test_replacements_of_frozen_batch_norms_are_frozen(mode):
    network = nn.Sequential(nn.BatchNorm2d(NUM_CHANNELS), nn.BatchNorm2d(NUM_CHANNELS).requires_grad_(False))
    network[0].bias.requires_grad_(False)
    replace_batch_norms(network, mode)
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == ["0.weight"]


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("mode", ["running", "transductive", "group"])
def test_replacements_without_scale_and_shift_learn_none(mode, vectorised, maps):
    network, reference = nn.Sequential(nn.BatchNorm2d(NUM_CHANNELS, affine=False)), nn.Sequential(torchs())
    replace_batch_norms(network, mode)
    assert list(network.parameters()) == [] and "0.weight" not in network.state_dict()
    nn.init.ones_(reference[0].weight)
    nn.init.zeros_(reference[0].bias)
    replace_batch_norms(reference, mode)
    network, reference = network.double(), reference.double()
    maps.requires_grad_()

    def passed(network):
        with second_order_pass(network), vectorised_pass(network) if vectorised else nullcontext():
            normed = network(maps)
        (gradient,) = torch.autograd.grad(normed.sin().sum(), maps, create_graph=True)
        return normed, gradient, torch.autograd.grad(gradient.sin().sum(), maps)

    assert_equal(passed(network), passed(reference))


# Mixed precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("mode", STATISTICS_MODES)
def test_statistics_of_bfloat16_maps_are_float32(mode, vectorised, maps):
    layer = ours(mode).float()
    layer.vectorised = vectorised
    rounded = (97 + maps).bfloat16()  # a mean of 100 in bfloat16 may be off by a quarter, an eighth of a deviation
    with support_rows(layer, 3):
        normed = layer(rounded)
        assert normed.dtype == torch.bfloat16
        observed = layer.take_observed()
        torch.testing.assert_close(normed.float(), layer(rounded.float()), rtol=0.01, atol=0.01)
    assert (observed is not None) == (mode == "running")
    if observed is not None:
        variance, mean = torch.var_mean(rounded.double(), (0, 2, 3))
        expected = mean.float(), variance.float()
        torch.testing.assert_close(observed, expected, rtol=1e-6, atol=0)
