"""Gaussians with diagonal covariance, given by their means and log-variances."""

import torch
from torch import Tensor


def gaussian_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """The Kullback-Leibler divergence KL(q || p) [] in nats of two Gaussians over P numbers, each argument [P].

    1/2 sum [v_q / v_p - 1 - log(v_q / v_p) + (m_q - m_p)^2 / v_p]; exactly 0 if both are equal.
    """
    log_ratio = log_variance_q - log_variance_p
    distance = (mean_q - mean_p).square() * (-log_variance_p).exp()
    return (torch.expm1(log_ratio) - log_ratio + distance).sum() / 2
