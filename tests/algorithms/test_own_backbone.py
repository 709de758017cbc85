"""User-defined networks in place of those chosen by name."""

from functools import partial

import pytest
import torch
from episodes import flat_gradient, random_episode
from quiet_trainer import quiet_trainer
from torch import nn
from torchvision.ops import StochasticDepth

from fewshot_pl.algorithms import (
    ANIL,
    BOIL,
    MAML,
    PLATIPUS,
    LSTMMetaLearner,
    MatchingNet,
    MetaGAN,
    MetaSGD,
    ProtoNet,
    RelationNet,
    Reptile,
)
from fewshot_pl.backbones.learner import draws_random_numbers
from fewshot_pl.backbones.normalization import episodic_norms
from fewshot_pl.errors import InputError

WAYS = {"num_ways": 3}
ALGORITHMS = {
    "ProtoNet": (ProtoNet, {}),
    "MatchingNet": (MatchingNet, {"full_context": True}),
    "MAML": (MAML, WAYS),
    "ANIL": (ANIL, WAYS),
    "BOIL": (BOIL, WAYS),
    "MetaSGD": (MetaSGD, WAYS),
    "Reptile": (Reptile, WAYS),
    "PLATIPUS": (PLATIPUS, WAYS),
    "LSTMMetaLearner": (LSTMMetaLearner, {**WAYS, "norm": "transductive"}),
    "MetaGAN": (MetaGAN, WAYS),
}


class Convolution(nn.Sequential):
    """Maps images to features [n, 4 * 16], by one convolution and torch's batch norm."""

    def __init__(self, *more):
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), *more, nn.AdaptiveAvgPool2d(4), nn.Flatten()
        super().__init__(*layers)


class Attention(nn.Module):
    """Maps images [n, 1, 16, 16], whose rows attend to each other by torch's fused attention, to features [n, 16]."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(16, 3 * 16)

    def forward(self, images):
        queries, keys, values = self.projection(images).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(queries, keys, values).mean((1, 2))


class Normalised(nn.Sequential):
    """Features [n, 8] of images [n, 1, 16, 16], with those norms of torch's whose statistics are of the input."""

    def __init__(self):
        maps = nn.Conv2d(1, 2, 3, stride=3), nn.InstanceNorm2d(2, affine=True), nn.Flatten(), nn.LayerNorm(50)
        super().__init__(*maps, nn.Linear(50, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh())


def own(algorithm, make, **settings):
    """An algorithm with the network that ``make`` returns, for images [1, 16, 16] by default."""

    class Own(algorithm):
        def own_backbone(self, image_shape):
            return make()

    torch.manual_seed(0)
    return Own(**{"image_shape": (1, 16, 16), **settings})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_a_network_of_ones_own(name):
    algorithm, settings = ALGORITHMS[name]
    model = own(algorithm, Convolution, **settings)
    assert model.hparams["backbone"] == "Convolution"
    weight = next(module for module in model.modules() if isinstance(module, Convolution))[0].weight
    model.train().training_losses(random_episode())["loss"].backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["transductive", "running", "support", "group", "none"])
def test_its_batch_norms_are_those_of_the_norm_mode(norm):
    model = own(MAML, Convolution, num_ways=3, norm=norm).eval()
    assert model.norm_mode == norm
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert [layer.mode for layer in episodic_norms(model)] == [norm] * (norm not in ("group", "none"))
    episode = random_episode()
    one_by_one = torch.cat([model(episode._replace(query_x=x[:, None])) for x in episode.query_x.unbind(1)], 1)
    assert torch.allclose(model(episode), one_by_one, atol=1e-5) == (norm != "transductive")


def test_it_keeps_its_weights():
    network = Convolution()
    before = network[0].weight.detach().clone()
    assert torch.equal(own(MAML, lambda: network, num_ways=3).learner.backbone[0].weight, before)


class Given(MAML):
    """Takes its network as an argument."""

    def __init__(self, net, **settings):
        super().__init__(**settings)

    def own_backbone(self, image_shape):
        return self.given_arguments["net"]


def test_it_may_be_an_argument():
    network = Convolution()
    model = Given(network, image_shape=(1, 16, 16))
    assert model.learner.backbone is network and "net" not in model.hparams
    assert len(list(model.parameters())) == 6 and all(name.startswith("learner.") for name in model.state_dict())


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_that_are_frozen_or_have_no_weights_are_not_trained(affine, task_parallel):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.Flatten()).requires_grad_(False)
    model = own(MAML, lambda: network, num_ways=3, task_parallel=task_parallel).train()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["learner.head.weight", "learner.head.bias"]
    model.training_losses(random_episode())["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == trained
    assert len(model.adapted(*(values[0] for values in random_episode()[:2]), 1)) == (6 if affine else 4)


@pytest.mark.parametrize("first", ["transductive", "running", "group", "none"])
def test_a_network_cannot_have_the_norms_of_two_algorithms(first):
    network = Convolution()
    model = Given(network, image_shape=(1, 16, 16), norm=first)
    with pytest.raises(InputError, match=rf"already has norm {first}, .*deepcopy\(net\).* pass --model.norm {first}"):
        Given(network, image_shape=(1, 16, 16), norm="support")
    assert {layer.mode for layer in episodic_norms(model)} <= {first}
    assert Given(network, image_shape=(1, 16, 16), norm=first).learner.backbone is network


def test_a_network_cannot_have_the_epsilons_of_two_algorithms():
    network = Convolution()
    model = Given(network, image_shape=(1, 16, 16), norm_eps=1e-3)
    Given(network, image_shape=(1, 16, 16), norm_eps=1e-3)
    with pytest.raises(InputError, match=r"already adds 0\.001 .*deepcopy\(net\).* pass --model\.norm_eps 0\.001"):
        Given(network, image_shape=(1, 16, 16), norm_eps=1e-5)
    assert {layer.eps for layer in episodic_norms(model)} == {1e-3}


@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
def test_maps_are_no_features(algorithm):
    with pytest.raises(InputError, match=r"the backbone makes \[2, 4, 14, 14\] of 2 images, .* nn\.Flatten"):
        own(algorithm, lambda: nn.Conv2d(1, 4, 3))


@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
def test_a_network_may_have_another_precision_or_device(algorithm):
    assert own(algorithm, lambda: Convolution().double()).double().training
    assert own(algorithm, lambda: Convolution().to("meta")).to("meta").device.type == "meta"


def test_an_error_of_the_network_is_told():
    with pytest.raises(InputError, match=r"do not pass through this backbone \(mat1 and mat2 shapes cannot be multipl"):
        own(ProtoNet, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 4)))


def test_relation_networks_take_none():
    with pytest.raises(InputError, match=r"compares feature maps, not those of Convolution: pass .* conv4-maps"):
        own(MetaGAN, Convolution, classifier="relation_net", backbone="conv4-maps")
    with pytest.raises(InputError, match="RelationNet compares feature maps, and Convolution has none"):
        own(RelationNet, Convolution)


@pytest.mark.parametrize("make", [Convolution, Attention, Normalised])
@pytest.mark.parametrize("recomputes", [False, True])
def test_second_order_gradients_are_those_of_vmap(make, recomputes):
    def gradient(task_parallel):
        settings = {"num_ways": 3, "num_inner_steps": 2, "recompute_inner_steps": recomputes}
        model = own(MAML, make, task_parallel=task_parallel, **settings).double().train()
        return flat_gradient(model.training_losses(random_episode(dtype=torch.float64))["loss"], model)

    torch.testing.assert_close(gradient("loop"), gradient("vmap"))


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_attention_is_not_fused_where_vmap_hides_that_it_will_be_differentiated(task_parallel, trains, monkeypatch):
    model = own(ProtoNet, Attention, task_parallel=task_parallel)
    attention, may_be_fused = nn.functional.scaled_dot_product_attention, set()

    def noted(*inputs):
        may_be_fused.add(torch.backends.cuda.flash_sdp_enabled())
        return attention(*inputs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", noted)
    with torch.set_grad_enabled(trains):
        model(random_episode())
    assert may_be_fused == {not (trains and task_parallel == "vmap")}


def test_threads_do_not_turn_the_switch_of_fused_attention_for_each_other(two_threads, monkeypatch):
    """It is the process's; the gradient of the queries' pass would have to fuse while another task's must not."""
    attention, may_be_fused = nn.functional.scaled_dot_product_attention, set()

    def noted(*inputs):
        may_be_fused.add(torch.backends.cuda.flash_sdp_enabled())
        return attention(*inputs)

    settings = {"num_ways": 3, "num_inner_steps": 3}
    looped, threaded = (own(MAML, Attention, task_parallel=way, **settings).double() for way in ("loop", "threads"))
    episode = random_episode(num_tasks=8, dtype=torch.float64)._replace(known_ways=3)
    expected = flat_gradient(looped.training_losses(episode)["loss"], looped)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", noted)
    for _ in range(10):
        found = flat_gradient(threaded.training_losses(episode)["loss"], threaded)
        torch.testing.assert_close(found, expected)
    assert may_be_fused == {False} and torch.backends.cuda.flash_sdp_enabled()


def with_norm_of_features(**options):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8, **options))


def test_running_statistics_of_torchs_own_are_kept_without_vmap(monkeypatch):
    monkeypatch.setattr(MAML, "device", torch.device("cuda"))
    counting = own(MAML, with_norm_of_features, num_ways=3)
    assert not counting.vectorises and counting.eval().vectorises
    assert own(MAML, partial(with_norm_of_features, track_running_stats=False), num_ways=3).vectorises


def test_running_statistics_of_torchs_own_under_vmap_are_refused():
    for algorithm in (ProtoNet, MAML):
        model = own(algorithm, with_norm_of_features, task_parallel="vmap")
        model.trainer = quiet_trainer()
        with pytest.raises(InputError, match="cannot keep running statistics under vmap: leave out"):
            model.setup("fit")


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), StochasticDepth(0.3, "row")])
def test_a_network_that_draws_is_not_recomputed(layer):
    with pytest.raises(InputError, match="drops parts of itself at random"):
        own(MAML, lambda: Convolution(layer), num_ways=3, recompute_inner_steps=True)
    model = MAML(image_shape=(1, 16, 16), num_ways=3, recompute_inner_steps=True)
    model.learner.backbone.blocks[0].append(layer)
    with pytest.raises(InputError, match="drops parts of itself at random"):
        model.training_losses(random_episode())


class Forgetful(nn.Sequential):
    """Drops features by a function, which no layer tells of."""

    def forward(self, images):
        return nn.functional.dropout(super().forward(images), 0.3, self.training)


class Recurrent(nn.Module):
    """Features [n, 8] of the rows of images [n, 1, 16, 16]."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return self.layer(images[:, 0])[0][:, -1]


def test_attention_and_recurrent_layers_that_drop_are_not_recomputed():
    for dropout in (0.3, 0.0):
        layer = nn.GRU(16, 8, num_layers=2, batch_first=True, dropout=dropout)
        assert draws_random_numbers(Recurrent(layer)) == (dropout > 0)
        assert draws_random_numbers(nn.MultiheadAttention(16, 2, dropout=dropout)) == (dropout > 0)
    with pytest.raises(InputError, match="drops parts of itself at random"):
        layer = nn.GRU(16, 8, num_layers=2, batch_first=True, dropout=0.3)
        own(MAML, lambda: Recurrent(layer), num_ways=3, recompute_inner_steps=True)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_a_function_that_draws_is_not_recomputed(task_parallel):
    settings = {"num_ways": 3, "recompute_inner_steps": True, "task_parallel": task_parallel}
    model = own(MAML, lambda: Forgetful(nn.Flatten(), nn.Linear(256, 8)), **settings)
    assert torch.isfinite(model.eval().training_losses(random_episode())["loss"])
    with pytest.raises(InputError, match="drops parts of itself at random"):
        model.train().training_losses(random_episode())


@pytest.mark.parametrize("last", [nn.ReLU, nn.RReLU])
@pytest.mark.parametrize("kind", [nn.Sequential, Forgetful])
@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
def test_a_function_that_draws_is_not_trained_on_threads(algorithm, kind, last, two_threads):
    """The threads would share torch's random numbers out by who comes first, and no training would repeat itself."""
    model = own(algorithm, lambda: kind(nn.Flatten(), nn.Linear(256, 8), last()), task_parallel="threads")
    episode = random_episode(num_tasks=4, num_ways=5)._replace(known_ways=5)
    with torch.no_grad():
        assert torch.equal(model.eval()(episode), model(episode))
    model.train()
    if kind is Forgetful or last is nn.RReLU:
        with pytest.raises(InputError, match=r"draws random numbers, .*pass --model\.task_parallel loop"):
            model.training_losses(episode)
        model.task_parallel = "loop"
    torch.manual_seed(1)
    loss = model.training_losses(episode)["loss"]
    torch.manual_seed(1)
    assert torch.equal(model.training_losses(episode)["loss"], loss)


def test_other_batch_norms_are_named_with_results():
    model = ProtoNet(image_shape=(1, 16, 16))
    model.backbone = Convolution()
    assert model.norm_mode == "the network's own" and model.embeds_alone
    model.backbone = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten())
    assert not model.embeds_alone
