"""RelationNet against its definition, written out pair by pair in float64, and the sizes of the authors' code."""

import math

import pytest
import torch
from episodes import NUM_WAYS, random_episode
from quiet_trainer import quiet_trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fewshot_pl.algorithms import RelationNet
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
FLOAT64 = torch.float64
LABELS = torch.tensor([2, 0, 1, 1, 0, 1])  # unequal shots


def build(**arguments):
    torch.manual_seed(0)
    return RelationNet(**{"image_shape": (1, 16, 16), **arguments}).double()


@pytest.fixture
def model():
    return with_visible_scores(build(norm="group"))  # each image and pair by itself


def with_visible_scores(model):
    """The model with larger weights in its linear layers, which start at N(0, 0.01^2): its scores differ visibly."""
    for layer in (model.head.hidden, model.head.score):
        nn.init.normal_(layer.weight, std=0.5)
    return model


@pytest.fixture
def features(model):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(LABELS) + 4, model.num_features, dtype=FLOAT64, generator=generator)
    return values[: len(LABELS)], values[len(LABELS) :]


# Sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_shape", "map_shape", "num_hidden_inputs", "padding"),
    [
        ((1, 28, 28), (64, 5, 5), 64, 1),
        ((3, 84, 84), (64, 19, 19), 576, 0),
        ((3, 32, 32), (64, 8, 8), 256, 1),
        ((1, 16, 16), (64, 4, 4), 64, 1),
        ((3, 40, 64), (64, 10, 16), 128, 0),
    ],
)
def test_maps_and_head_have_the_sizes_of_the_authors_code(image_shape, map_shape, num_hidden_inputs, padding):
    model = build(image_shape=image_shape).float()
    with torch.no_grad():
        maps = model.backbone.blocks(torch.zeros(2, *image_shape))
    assert maps.shape == (2, *map_shape) and model.map_shape == map_shape
    assert model.head.hidden.weight.shape == (8, num_hidden_inputs)
    assert model.head.score.weight.shape == (1, 8)
    assert [block.conv.padding for block in model.head.blocks[:2]] == [(padding, padding)] * 2
    assert model.head.blocks[0].conv.in_channels == 128


def test_has_the_number_of_parameters_of_the_authors_code():
    def convolution(before, after):
        return 9 * before * after + after + 2 * after  # weights, biases, scale and shift of the norm

    expected = convolution(1, 64) + 3 * convolution(64, 64) + convolution(128, 64) + convolution(64, 64)
    expected += 64 * 8 + 8 + 8 + 1
    assert sum(parameter.numel() for parameter in build(image_shape=(1, 28, 28)).parameters()) == expected


def test_refuses_what_has_no_maps_or_too_small_ones():
    with pytest.raises(InputError, match="conv4-maps"):
        build(backbone="conv4")
    with pytest.raises(InputError, match="16x16"):
        build(image_shape=(1, 12, 12))


def test_starts_as_the_authors_code():
    model = build(image_shape=(1, 28, 28))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.1)
            assert not layer.bias.any()
        elif isinstance(layer, nn.Linear):
            assert layer.weight.abs().max() < 0.05
            assert (layer.bias == 1).all()
    assert model.head.hidden.weight.std().item() == pytest.approx(0.01, rel=0.1)


# Relations -------------------------------------------------------------------------------------------


def test_logits_are_those_of_every_pair_by_itself(model, features):
    support_f, query_f = features
    logits = model.logits_from_features(support_f, LABELS, query_f, NUM_WAYS)
    assert logits.shape == (len(query_f), NUM_WAYS)
    assert logits.std() > 0.01
    for way in range(NUM_WAYS):
        class_map = support_f[way == LABELS].sum(0).view(model.map_shape)
        for query, logit in zip(query_f, logits[:, way], strict=True):
            pair = torch.cat([class_map, query.view(model.map_shape)])[None]
            torch.testing.assert_close(model.head(pair)[0], logit, rtol=0, atol=1e-12)
            swapped = torch.cat([query.view(model.map_shape), class_map])[None]
            assert (model.head(swapped)[0] - logit).abs() > 1e-9, "class first, query second"


def test_support_maps_are_summed_and_not_averaged(model, features):
    support_f, query_f = features
    logits = model.logits_from_features(support_f, LABELS, query_f, NUM_WAYS)
    twice = model.logits_from_features(support_f.repeat(2, 1), LABELS.repeat(2), query_f, NUM_WAYS)
    doubled = model.logits_from_features(2 * support_f, LABELS, query_f, NUM_WAYS)
    torch.testing.assert_close(twice, doubled, rtol=0, atol=1e-12)
    assert not torch.allclose(twice, logits)


def test_a_score_does_not_depend_on_the_other_classes(model, features):
    support_f, query_f = features
    logits = model.logits_from_features(support_f, LABELS, query_f, NUM_WAYS)
    kept = LABELS < 2
    fewer = model.logits_from_features(support_f[kept], LABELS[kept], query_f, 2)
    torch.testing.assert_close(fewer, logits[:, :2], rtol=0, atol=1e-12)
    assert not torch.allclose(fewer.softmax(-1), logits.softmax(-1)[:, :2])


def test_takes_tasks_of_any_number_of_ways(model):
    for num_ways in (2, 7):
        assert model(random_episode(num_ways=num_ways, dtype=FLOAT64)).shape[-1] == num_ways


# Normalisation ---------------------------------------------------------------------------------------


def test_support_and_query_each_have_their_own_statistics():
    model, episode = with_visible_scores(build()), random_episode(dtype=FLOAT64)
    support_x, support_y, query_x = (tensor[0] for tensor in episode[:3])
    logits = model(episode)[0]
    apart = model.encode(support_x), support_y, model.encode(query_x)
    torch.testing.assert_close(logits, model.logits_from_features(*apart, NUM_WAYS), rtol=0, atol=1e-12)
    joint = model.encode(torch.cat([support_x, query_x])).split([len(support_x), len(query_x)])
    assert not torch.allclose(logits, model.logits_from_features(joint[0], support_y, joint[1], NUM_WAYS))


def test_evaluation_normalises_as_training_does():
    model, episode = with_visible_scores(build()), random_episode(dtype=FLOAT64)
    assert not any("running" in name for name in model.state_dict())
    torch.testing.assert_close(model.eval()(episode), model.train()(episode), rtol=0, atol=0)


def test_support_mode_takes_the_heads_statistics_from_pairs_with_support_images():
    model, episode = with_visible_scores(build(norm="support")), random_episode(dtype=FLOAT64)
    support_x, support_y, query_x = (tensor[0] for tensor in episode[:3])
    pairs_seen = []
    model.head.blocks[0].norm.register_forward_pre_hook(
        lambda layer, inputs: pairs_seen.append((layer.num_support, len(inputs[0])))
    )
    one = model.query_logits(support_x, support_y, query_x[:1], NUM_WAYS)
    three = model.query_logits(support_x, support_y, query_x[:3], NUM_WAYS)
    torch.testing.assert_close(three[:1], one, rtol=0, atol=1e-12)
    num_support = len(support_x)
    assert pairs_seen == [(num_support * NUM_WAYS, (num_support + n) * NUM_WAYS) for n in (1, 3)]
    other_support = model.query_logits(support_x.flip(0) * 2, support_y, query_x[:1], NUM_WAYS)
    assert not torch.allclose(other_support, one)


# Loss ------------------------------------------------------------------------------------------------


def test_loss_is_the_mean_squared_error_of_scores_to_one_hot():
    model, episode = with_visible_scores(build()), random_episode(dtype=FLOAT64)
    scores = model(episode).sigmoid()
    assert ((scores > 0) & (scores < 1)).all()
    assert not torch.allclose(scores.sum(-1), torch.ones_like(scores[..., 0]))
    errors = [
        (scores[task, query, way] - float(label == way)) ** 2
        for task, labels in enumerate(episode.query_y)
        for query, label in enumerate(labels)
        for way in range(NUM_WAYS)
    ]
    losses = model.training_losses(episode)
    torch.testing.assert_close(losses["loss"], torch.stack(errors).mean(), rtol=0, atol=1e-13)
    one_hot = F.one_hot(episode.query_y, NUM_WAYS).double()
    torch.testing.assert_close(losses["loss"], nn.MSELoss()(scores, one_hot), rtol=0, atol=1e-13)
    of_softmax = nn.MSELoss()(model(episode).softmax(-1), one_hot)
    assert (losses["loss"] - of_softmax).abs() > 1e-4
    accuracy = (scores.argmax(-1) == episode.query_y).float().mean()
    assert losses["accuracy"] == accuracy


def test_evaluation_reports_the_loss_of_training():
    model, episode = build().float(), random_episode()
    measured = quiet_trainer().validate(model, DataLoader([episode], batch_size=None), verbose=False)[0]
    assert measured["val/loss"] == pytest.approx(model.training_losses(episode)["loss"].item(), rel=1e-5)


def test_the_probabilities_of_calibration_are_scores_divided_by_their_sum():
    logits = 3 * torch.randn(2, 4, NUM_WAYS, dtype=FLOAT64)
    scores = logits.sigmoid()
    torch.testing.assert_close(
        build().class_log_probabilities(logits).exp(), scores / scores.sum(-1, keepdim=True), rtol=1e-12, atol=0
    )


def test_queries_of_unknown_class_count_for_nothing():
    model = build()
    logits = torch.randn(2, 4, NUM_WAYS, dtype=FLOAT64)
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    known = model.query_loss(logits[:, :3], labels[:, :3])
    labels[:, 3] = -100
    torch.testing.assert_close(model.query_loss(logits, labels), known, rtol=0, atol=1e-15)


# Training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_gradient_norm", [0.5, 0])
def test_gradients_of_the_two_networks_are_clipped_apart(max_gradient_norm):
    model = build(max_gradient_norm=max_gradient_norm)
    model.trainer = quiet_trainer()
    norms = {}
    for network, norm in ((model.backbone, 3.0), (model.head, 0.25)):
        parameters = list(network.parameters())
        length = math.sqrt(sum(parameter.numel() for parameter in parameters))
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, norm / length)
        norms[network] = norm
    model.configure_gradient_clipping(torch.optim.SGD(model.parameters(), lr=1.0), None, None)
    for network, norm in norms.items():
        after = torch.stack([parameter.grad.norm() for parameter in network.parameters()]).norm().item()
        assert after == pytest.approx(min(norm, max_gradient_norm or norm), rel=1e-4)


def test_default_schedule_and_clipping_are_the_authors():
    assert build().max_gradient_norm == 0.5
    configured = build().configure_optimizers()
    schedule = configured["lr_scheduler"]
    assert configured["optimizer"].param_groups[0]["lr"] == 1e-3
    assert (schedule["scheduler"].step_size, schedule["scheduler"].gamma, schedule["interval"]) == (
        100_000,
        0.5,
        "step",
    )
