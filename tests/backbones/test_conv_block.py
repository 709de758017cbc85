"""ConvBlock: a batch norm folded into the convolution against the same layers one after the other, in float64."""

from contextlib import ExitStack, nullcontext

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode
from torch.nn.utils import prune

from fewshot_pl.algorithms import MAML, ProtoNet, adaptation
from fewshot_pl.backbones import ConvBlock, conv_block
from fewshot_pl.backbones.normalization import given_statistics
from fewshot_pl.backbones.passes import observing, second_order_pass, support_rows, vectorised_pass

SHAPES = pytest.mark.parametrize("shape", [{"pool": True}, {"stride": 2, "pool": False}, {"padding": 0}], ids=str)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def one_image_at_a_time(monkeypatch):
    """Make the caches so small that every batch is folded if it may be."""
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", 0)


@pytest.fixture
def plain(monkeypatch):
    """A function to call before a pass whose layers are to run one after the other."""
    return lambda: monkeypatch.setattr(conv_block, "_CACHED_BYTES", 2**40)


def random_block(norm="transductive", before=2, after=20, **shape):
    torch.manual_seed(0)
    block = ConvBlock(before, after, norm, **shape).double()
    for parameter in block.norm.parameters():
        torch.nn.init.normal_(parameter)
    return block


def random_images(num_images=7, num_channels=2):
    return 3 + 2 * torch.randn(num_images, num_channels, 6, 6, dtype=torch.float64)


def is_folded(block, images):
    """Whether a pass skips the batch norm."""
    passes = []
    hook = block.norm.register_forward_hook(lambda *_: passes.append(None))
    block(images)
    hook.remove()
    return not passes


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def derivatives(block, images, create_graph=True):
    """The block's maps, and their first and second derivatives with respect to its parameters."""
    parameters = list(block.parameters())
    maps = block(images)
    first = torch.autograd.grad(maps.sin().sum(), parameters, create_graph=create_graph)
    return maps, *first, *torch.autograd.grad(sum(gradient.sin().sum() for gradient in first), parameters)


# The same maps and derivatives -----------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("norm", ["transductive", "running", "support", "episode"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels first", "channels last"])
@pytest.mark.parametrize("second_order", [False, True], ids=["torch's", "ours"])
def test_it_equals_its_layers_one_after_the_other(norm, shape, layout, second_order, plain):
    block, images = random_block(norm, **shape).to(memory_format=layout), random_images().to(memory_format=layout)
    with ExitStack() as stack:
        for told in [support_rows(block, 3), observing(block)] + [second_order_pass(block)] * second_order:
            stack.enter_context(told)
        assert is_folded(block, images)
        folded, folded_statistics = derivatives(block, images), block.norm.observed
        plain()
        assert not is_folded(block, images)
        assert_equal(folded, derivatives(block, images))
        assert_equal(folded_statistics, block.norm.observed)
    assert (folded_statistics is not None) == (norm in ("running", "episode"))


@SHAPES
def test_derivatives_are_central_differences(shape):
    block, images = random_block(after=19, **shape), random_images(3)
    names = ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]

    def passed(*values):
        del block.relu  # finite differences fail at its bend
        maps = torch.func.functional_call(block, dict(zip(names, values, strict=True)), (images,))
        block.relu = torch.nn.Identity()
        return maps

    parameters = [dict(block.named_parameters())[name].detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(passed, parameters, fast_mode=True)
    assert torch.autograd.gradgradcheck(passed, parameters, fast_mode=True)


def test_maps_without_variance_have_finite_derivatives():
    block = random_block()
    maps, *gradients = derivatives(block, torch.ones(3, 2, 6, 6, dtype=torch.float64))
    assert all(values.isfinite().all() for values in (maps, *gradients))


@pytest.mark.parametrize("build", [ProtoNet, MAML])
@pytest.mark.parametrize("norm", ["transductive", "running", "support"])
def test_an_algorithm_trains_with_the_same_gradient(build, norm, plain):
    torch.manual_seed(0)
    settings = {"num_inner_steps": 2, "inner_lr": 0.1, "num_ways": NUM_WAYS} if build is MAML else {}
    model = build(image_shape=(1, 16, 16), backbone="conv4-32", norm=norm, **settings).double()
    episode = random_episode(dtype=torch.float64)

    def gradient():
        return flat_gradient(model.training_losses(episode)["loss"], model)

    folded = gradient()
    assert_equal(folded, gradient())
    plain()
    torch.testing.assert_close(folded, gradient(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "num_kept", "num_otherwise"),
    [({}, 2, 4), ({"first_order": True}, 2, 4), ({"norm": "support"}, 2, 4), ({"recompute_inner_steps": True}, 7, 7)],
    ids=str,
)
def test_three_steps_on_a_support_need_the_moments_of_its_patches_once(arguments, num_kept, num_otherwise, monkeypatch):
    """And the queries need theirs. Steps computed again go through torch.func, where nothing may be kept."""
    torch.manual_seed(0)
    settings = {"num_ways": NUM_WAYS, "backbone": "conv4-32", "num_inner_steps": 3, "inner_lr": 0.1, **arguments}
    model, computed, patch_moments = MAML(image_shape=(1, 16, 16), **settings), [], conv_block.patch_moments
    monkeypatch.setattr(conv_block, "patch_moments", lambda *given: computed.append(1) or patch_moments(*given))

    def gradient():
        computed.clear()
        return flat_gradient(model.training_losses(random_episode(num_tasks=1))["loss"], model)

    kept = gradient()
    assert len(computed) == num_kept
    monkeypatch.setattr(adaptation, "same_images", lambda learner: nullcontext())
    assert torch.equal(kept, gradient())
    assert len(computed) == num_otherwise


@pytest.mark.parametrize("norm", ["transductive", "running"])
def test_under_autocast_statistics_keep_their_precision(norm, plain):
    block, images = random_block(norm).float(), random_images().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert is_folded(block, images)
        maps, statistics = block(images), block.norm.observed
    plain()
    expected = block(images)
    assert maps.dtype == torch.bfloat16
    torch.testing.assert_close(maps.float(), expected, rtol=0, atol=0.05)
    if norm == "running":
        torch.testing.assert_close(statistics, block.norm.observed, rtol=1e-5, atol=1e-5)


# Passes that are not folded --------------------------------------------------------------------------


def test_images_that_have_a_gradient_get_it():
    block, images = random_block(), random_images().requires_grad_()
    assert not is_folded(block, images)
    assert torch.autograd.grad(block(images).sin().sum(), images)[0].any()


def test_a_running_norm_in_evaluation_is_not_folded():
    block = random_block("running")
    assert is_folded(block, random_images())
    assert not is_folded(block.eval(), random_images())


def test_given_statistics_are_used():
    block, images = random_block("episode"), random_images()
    statistics = torch.ones(20, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    with given_statistics(block, statistics):
        assert not is_folded(block, images)


def test_passes_under_vmap_are_not_folded():
    block = random_block()
    with vectorised_pass(block):
        assert not is_folded(block, random_images())


@pytest.mark.parametrize(("before", "after", "folded"), [(2, 19, True), (2, 18, False), (20, 64, False)])
def test_patches_of_as_many_values_as_the_maps_have_are_not_worth_it(before, after, folded):
    assert is_folded(random_block(before=before, after=after), random_images(num_channels=before)) == folded


def test_maps_that_stay_in_the_caches_are_not_folded(monkeypatch):
    block, images = random_block(), random_images()  # 20 maps of 6x6 in float64 each
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", 7 * 20 * 36 * 8 // 2)
    assert not is_folded(block, images)
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", 7 * 20 * 36 * 8 // 2 - 1)
    assert is_folded(block, images)


def test_a_pruned_weight_is_not_folded_as_a_hook_makes_it(plain):
    def gradient():
        torch.manual_seed(0)
        settings = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32"}
        model = MAML(num_inner_steps=2, inner_lr=0.1, **settings).double()
        prune.l1_unstructured(model.learner.backbone.blocks[0].conv, "weight", 0.5)
        episode = random_episode(dtype=torch.float64)._replace(known_ways=NUM_WAYS)
        return flat_gradient(model.training_losses(episode)["loss"], model)

    with_small_caches = gradient()
    plain()
    torch.testing.assert_close(with_small_caches, gradient(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_other_norms_are_not_folded(norm):
    block = random_block(norm)
    assert not is_folded(block, random_images())
