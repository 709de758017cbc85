"""Batch normalisation with an explicit source of statistics.

Few-shot results depend strongly on the images that batch norm takes its statistics from, so they are a choice:
    transductive  the batch at hand, at test time too; the queries influence each other
    running       the batch at hand in training, running statistics at test time (inductive)
    support       the support images alone (inductive, no running state)
    episode       the batch at hand in training; for the queries at test, statistics accumulated over the passes of the
                  task's support (inductive; only for LSTMMetaLearner, which carries them along)
    group, layer  no batch statistics at all
    none          no normalisation
"""

from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewshot_pl.backbones.batch_norm import batch_norm
from fewshot_pl.backbones.passes import with_attribute
from fewshot_pl.errors import InputError
from fewshot_pl.functional.precision import at_least_float32

Norm = Literal["transductive", "running", "support", "episode", "group", "layer", "none"]
Statistics = tuple[Tensor, ...]  # the mean [C] and the variance [C] of each episodic batch norm in turn
_MAX_GROUPS = 8


class EpisodicBatchNorm2d(nn.Module):
    """Batch norm over maps [n, C, H, W] whose forward pass changes no state.

    A training pass only observes statistics (``observed``: the batch's mean and unbiased variance). ``update_running``
    folds them into the running ones once for all tasks of a step, so tasks do not see each other's statistics and the
    loop over tasks equals vmap. Statistics of an episode are observed within ``observing`` and held by the caller.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        mode: Literal["transductive", "running", "support", "episode"],
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.eps = eps
        self.momentum = momentum
        for name, values in (("weight", torch.ones(num_features)), ("bias", torch.zeros(num_features))):
            if affine:
                self.register_parameter(name, nn.Parameter(values))
            else:  # neither learned nor adapted to a task
                self.register_buffer(name, values, persistent=False)
        if mode == "running":
            self.register_buffer("running_mean", torch.zeros(num_features))
            self.register_buffer("running_var", torch.ones(num_features))
        self.num_support: int | None = None  # how many leading rows are support images; set by support_rows()
        self.vectorised = False  # whether the pass runs under vmap; set by vectorised_pass()
        self.twice_differentiated = False  # by autograd, not torch.func; set by second_order_pass()
        self.observing = False  # whether a pass in mode episode is over the support; set by observing()
        self.given: Statistics | None = None  # mean [C] and variance [C] to normalise by; set by given_statistics()
        self.observed: tuple[Tensor, Tensor] | None = None
        self.is_shared = False  # between algorithms that were given one network; set by check_norms_of_others()

    def forward(self, maps: Tensor) -> Tensor:
        if not self.takes_statistics:
            mean, variance = self.given or (self.running_mean, self.running_var)
            return self._normed(maps, *self._scale_and_shift(mean, variance))
        sources = self.sources(maps)
        if sources.numel() == sources.shape[1]:
            raise InputError(
                "batch norm has no variance over one value per channel (one image or point, maps of 1x1): pass "
                "--model.norm none, or more --data.num_shots and --data.num_queries"
            )
        # F.batch_norm is twice as fast, but its second derivatives under vmap are wrong (pytorch/functorch#534).
        if self.vectorised or sources is not maps:
            variance, mean = torch.var_mean(at_least_float32(sources), (0, 2, 3), correction=0)
            return self._normed(maps, *self.affine(mean, variance, sources.numel() // len(mean)))
        return self._fused(maps)

    @property
    def takes_statistics(self) -> bool:
        """Whether maps are normalised by the statistics of their own batch."""
        return self.given is None and (self.training or self.mode != "running")

    def sources(self, rows: Tensor) -> Tensor:
        """The rows of a batch from which its statistics are taken."""
        return rows[: self.num_support] if self.mode == "support" else rows

    def affine(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The scale [C] and shift [C] by which ``forward`` would normalise maps of this mean [C] and variance [C].

        ``count`` is the number of values that they were computed from. They are observed as in ``forward``.
        """
        if self._observes:
            self.observed = (mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        return self._scale_and_shift(mean, variance)

    def take_observed(self) -> tuple[Tensor, Tensor] | None:
        """The mean [C] and unbiased variance [C] of the last pass, if one was observed, which are then cleared."""
        observed, self.observed = self.observed, None
        return observed

    def update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards a batch's mean [C] and unbiased variance [C]."""
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var), self.momentum)

    @property
    def _observes(self) -> bool:
        return self.mode == "running" or (self.mode == "episode" and self.observing)

    def _fused(self, maps: Tensor) -> Tensor:
        mean = variance = None
        if self._observes:
            # With momentum 1 the "running" statistics that come back are the batch's own.
            mean, variance = torch.zeros_like(self.weight.detach()), torch.ones_like(self.weight.detach())
            self.observed = mean, variance
        if self.twice_differentiated:
            return batch_norm(maps, self.weight, self.bias, self.eps, mean, variance)
        return F.batch_norm(maps, mean, variance, self.weight, self.bias, True, 1.0, self.eps)

    def _scale_and_shift(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale

    def _normed(self, maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        # A single pass over the maps, as memory is the bottleneck.
        return torch.addcmul(shift[:, None, None], maps, scale[:, None, None]).to(maps.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, mode={self.mode}, eps={self.eps}"


class _GroupNorm(nn.GroupNorm):
    """Group norm that also takes channels-last maps under vmap, where torch's own raises."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.contiguous())


def norm_layer(norm: Norm, num_features: int, affine: bool = True) -> nn.Module:
    """The layer that normalises ``num_features`` channels in mode ``norm``, by default with a scale and a shift.

    Raises:
        InputError: there is no such norm.
    """
    if norm not in get_args(Norm):
        raise InputError(f"norm must be one of {', '.join(get_args(Norm))}, not '{norm}'")
    if norm == "none":
        return nn.Identity()
    if norm == "layer":
        return _GroupNorm(1, num_features, affine=affine)
    if norm == "group":
        groups = max(g for g in range(1, _MAX_GROUPS + 1) if num_features % g == 0)
        return _GroupNorm(groups, num_features, affine=affine)
    return EpisodicBatchNorm2d(num_features, norm, affine=affine)


def other_batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Torch's own batch norms inside ``module``, which a user's network may have and which have no mode."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def counting_batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Those of torch's batch norms inside ``module`` that update running statistics in training, as vmap cannot."""
    return [layer for layer in other_batch_norms(module) if layer.track_running_stats]


def episodic_norms(module: nn.Module, mode: str | None = None) -> list[EpisodicBatchNorm2d]:
    """The episodic batch norms inside ``module``, of one mode or of all."""
    norms = [layer for layer in module.modules() if isinstance(layer, EpisodicBatchNorm2d)]
    return [layer for layer in norms if mode in (None, layer.mode)]


def set_norm_eps(module: nn.Module, eps: float | None) -> None:
    """Set the ``eps`` of every episodic batch norm inside ``module``; None leaves each as it is."""
    if eps is not None:
        for layer in episodic_norms(module):
            if layer.is_shared and layer.eps != eps:
                raise InputError(
                    f"batch norm of the network already adds {layer.eps} to the variance, for another algorithm that "
                    f"was given it: give each algorithm its own copy, copy.deepcopy(net), before the first one takes "
                    f"it, or pass --model.norm_eps {layer.eps}"
                )
            layer.eps = eps


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running mean and variance, [C] each, of every batch norm of mode ``running`` inside ``module``."""
    return [values for layer in episodic_norms(module, "running") for values in (layer.running_mean, layer.running_var)]


def given_statistics(module: nn.Module, statistics: Statistics) -> AbstractContextManager[None]:
    """A context in which batch norms normalise by these statistics."""
    pairs = list(zip(statistics[::2], statistics[1::2], strict=True))
    return with_attribute(episodic_norms(module), "given", pairs)


def observed_statistics(module: nn.Module) -> Statistics:
    """The statistics that the batch norms of mode ``episode`` observed in the last pass, which are then cleared.

    Raises:
        InputError: one of them took no part in that pass.
    """
    found = [layer.take_observed() for layer in episodic_norms(module, "episode")]
    if None in found:
        raise InputError(
            "a batch norm of the network takes no part in a pass over the support, so norm episode has no statistics "
            "for it: pass --model.norm support, or leave out that layer"
        )
    return tuple(values for pair in found if pair is not None for values in pair)
