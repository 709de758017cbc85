"""The divergence of two Gaussians against torch.distributions, in float64."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

from fewshot_pl.functional.gaussians import gaussian_kl


def random_gaussians(seed, num_parameters=50):
    """Means and log-variances of two Gaussians, as ``gaussian_kl`` takes them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, num_parameters, dtype=torch.float64, generator=generator)


def test_divergence_is_that_of_torch_distributions():
    mean_q, log_variance_q, mean_p, log_variance_p = arguments = random_gaussians(0)
    q, p = (
        Independent(Normal(mean, (log_variance / 2).exp()), 1)
        for mean, log_variance in ((mean_q, log_variance_q), (mean_p, log_variance_p))
    )
    torch.testing.assert_close(gaussian_kl(*arguments), kl_divergence(q, p), rtol=1e-12, atol=0)


def test_divergence_is_zero_of_the_same_and_never_below():
    mean, log_variance, other_mean, other_log_variance = random_gaussians(1)
    assert gaussian_kl(mean, log_variance, mean, log_variance) == 0
    for scale in (0, 1e-12, 1e-8, 1e-4, 1, 10):
        near = mean + scale * other_mean, log_variance + scale * other_log_variance
        for dtype in (torch.float32, torch.float64):
            there, back = ((mean, log_variance, *near), (*near, mean, log_variance))
            assert min(gaussian_kl(*(value.to(dtype) for value in pair)) for pair in (there, back)) >= 0
