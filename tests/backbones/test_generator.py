"""The code of a task and the images drawn from it."""

import pytest
import torch

from fewshot_pl.backbones.generator import Generator, TaskEncoder

CIFAR_RANGE = ((-1.9, -1.8, -1.6), (1.8, 2.0, 2.1))


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84), (1, 16, 20), (1, 30, 30)])
def test_images_have_the_shape_and_range_of_real_ones(image_shape):
    torch.manual_seed(0)
    low, high = CIFAR_RANGE if image_shape[0] == 3 else ((0.0,), (1.0,))
    encoder, generator = TaskEncoder(image_shape, 4), Generator(image_shape, (low, high), 100, 16, 4)
    with torch.no_grad():
        generator.last.weight.mul_(100)  # so that tanh saturates
        code = encoder(torch.randn(6, *image_shape))
        images = generator(torch.randn(100, 100), code)
    assert code.shape == (16,) and images.shape == (100, *image_shape)
    least, most = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    torch.testing.assert_close(least, torch.tensor(low).expand(image_shape[0]), rtol=0, atol=0.05)
    torch.testing.assert_close(most, torch.tensor(high).expand(image_shape[0]), rtol=0, atol=0.05)


def test_has_the_sizes_that_are_described_of_the_paper():
    encoder, generator = TaskEncoder((1, 28, 28)), Generator((1, 28, 28), ((0.0,), (1.0,)), 100, 256)
    assert [(layer.out_channels, layer.stride[0]) for layer in encoder.convolutions] == [
        *((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2))
    ]
    assert encoder.linear.out_features == 256
    assert generator.linear.weight.shape == (7 * 7 * 256, 356)
    assert [(layer.out_channels, layer.kernel_size[0]) for layer in [*generator.convolutions, generator.last]] == [
        *((128, 5), (64, 5), (1, 5))
    ]


def test_the_code_does_not_depend_on_the_order_of_the_support():
    encoder = TaskEncoder((1, 28, 28), 8).double()
    support_x = torch.randn(6, 1, 28, 28, dtype=torch.float64)
    order = torch.randperm(6)
    torch.testing.assert_close(encoder(support_x[order]), encoder(support_x), rtol=0, atol=1e-14)
    apart = torch.stack([encoder(image[None]) for image in support_x])
    torch.testing.assert_close(encoder(support_x), apart.mean(0), rtol=0, atol=1e-14)


def test_noise_and_code_both_shape_the_images():
    generator = Generator((1, 28, 28), ((0.0,), (1.0,)), 100, 16, 4)
    noise, code = torch.randn(2, 100), torch.randn(16)
    images = generator(noise, code)
    assert not torch.allclose(images[0], images[1])
    assert not torch.allclose(generator(noise, code + 1), images)
    torch.testing.assert_close(generator(noise[:1], code), images[:1])
