"""Weights in four bits: in a group of 32 inputs each is ``scale * q + minimum``, with a whole number q from 0 to 15.

Both are float16, as in GGUF's Q4_1. With a minimum of -8 scales they are what Q4_0 and other symmetric formats have, so
that weights which were rounded to one of these formats are found again as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.kernels.interface import CONSTANTS

GROUP = CONSTANTS["kGroup"]
_HIGHEST = 15
# What a range loses at either end, as shares of it: a few weights are off by more then, and all others by less.
_CUTS = (0.0, 0.04, 0.08)
_FITS = 2
# Steps that the largest weight of a group has in a symmetric range, between the whole ones.
_FINER = (6.5, 7.25, 7.5, 7.75, 8.5, 9.0, 9.5)
# Weights that are rounded at a time: what that takes stays in a core's cache.
_AT_A_TIME = 1 << 16
# An input that activations never moved still has weights that are near: its share of what a group's inputs count.
_LEAST_IMPORTANCE = 0.02


class Int4(NamedTuple):
    """Weights [outputs, inputs] in four bits."""

    whole: Tensor
    """uint8 [outputs, inputs], 0 to 15."""
    scales: Tensor
    """float16 [outputs, inputs / 32], of either sign."""
    minimums: Tensor
    """float16 [outputs, inputs / 32]: the weight that 0 stands for; with a scale below zero it is the largest one."""


class _Rounding(NamedTuple):
    """Groups [n, 32] rounded in one way."""

    error: Tensor
    """[n, 1], the sum of squares, by importance."""
    whole: Tensor
    scale: Tensor
    """[n, 1], a number that float16 has; so is the minimum."""
    minimum: Tensor


class _Groups(NamedTuple):
    """Groups that are rounded, and what an error of each weight counts."""

    weights: Tensor
    """[n, 32]"""
    importance: Tensor | None
    """[n, 32], one on average of a group; None for ones."""

    def chosen(self, own: Tensor) -> "_Groups":
        """Return some of the groups, by their numbers."""
        return _Groups(self.weights[own], None if self.importance is None else self.importance[own])

    def mean(self, of: Tensor) -> Tensor:
        """Return the mean of each group's numbers ``of`` [n, 32], by importance: [n, 1]."""
        return (of if self.importance is None else of * self.importance).mean(-1, keepdim=True)


def round_to_int4(weight: Tensor, importance: Tensor | None = None) -> Int4:
    """Round ``weight`` [outputs, inputs] float32, inputs a multiple of 32, with a range for each group that leaves a
    small squared error; weights that have such a range already keep their values.

    importance: what an error counts in each input's weights [inputs], such as the mean square of the input's
    activations; only its ratios in a group of inputs matter. Raises CheckpointError for finite weights that are too
    large for float16.
    """
    groups = weight.reshape(-1, GROUP).split(_AT_A_TIME // GROUP)
    counted: Sequence[Tensor | None] = [None] * len(groups)
    if importance is not None:
        counted = _of_groups(importance).repeat(len(weight), 1).split(_AT_A_TIME // GROUP)
    parts = [_round_groups(_Groups(own, counts)) for own, counts in zip(groups, counted, strict=True)]
    whole, scale, minimum = (torch.cat(each) for each in list(zip(*parts, strict=True))[1:])
    scales, minimums = (each.half().view(len(weight), -1) for each in (scale, minimum))
    if not (scales.isfinite() & minimums.isfinite()).all() and weight.isfinite().all():
        raise CheckpointError(
            f"a weight of {float(weight.abs().max()):.3g} is too large for int4, whose groups have a minimum in "
            "float16; use int8"
        )
    return Int4(whole.to(torch.uint8).view(weight.shape), scales, minimums)


def round_symmetric(weight: Tensor, importance: Tensor | None, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round ``weight`` [outputs, inputs] float32, inputs a multiple of 32, to ``scale * q`` with a whole number q from
    -8 to 7 and a scale above zero of ``scale_dtype`` for each group: as compressed-tensors' W4A16 has it.

    Returns q [outputs, inputs] float32 and the scales [outputs, inputs / 32]. importance as in ``round_to_int4``;
    weights that have such scales already keep their values.
    """
    groups = weight.reshape(-1, GROUP)
    counted = torch.ones(1) if importance is None else _of_groups(importance).repeat(len(weight), 1)
    peak = groups.abs().amax(-1, keepdim=True)
    tried = [peak / steps for steps in (*range(1, 9), *_FINER)]
    best_error, best, best_scale = torch.full_like(peak, float("inf")), torch.zeros_like(groups), peak
    for tries in range(len(tried) + _FITS):
        if tries < len(tried):
            scale = tried[tries]
        else:
            fit = (best * groups * counted).sum(-1, keepdim=True) / (best.square() * counted).sum(-1, keepdim=True)
            scale = torch.where(fit > 0, fit, best_scale)
        scale = scale.to(scale_dtype).float()
        whole = (groups / torch.where(scale == 0, 1.0, scale)).round().clamp(-8, 7)
        error = ((whole * scale - groups).square() * counted).sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best, best_scale = torch.where(better, whole, best), torch.where(better, scale, best_scale)
    return best.view(weight.shape), best_scale.view(len(weight), -1).to(scale_dtype)


def _of_groups(importance: Tensor) -> Tensor:
    """Return the importance of inputs [inputs] by groups [groups, 32], none so small that its weights were free."""
    groups = importance.float().view(-1, GROUP)
    groups = groups / groups.mean(-1, keepdim=True).clamp(min=1e-30)
    groups = groups.clamp(min=_LEAST_IMPORTANCE)
    return groups / groups.mean(-1, keepdim=True)


def _round_groups(groups: _Groups) -> _Rounding:
    lowest, highest = groups.weights.aminmax(dim=-1, keepdim=True)
    width = highest - lowest
    peak = torch.where(highest >= -lowest, highest, lowest)
    step = width / _HIGHEST
    # Q4_0's range, and Q4_1's from either end. Where some groups come out as they were, all were rounded before, and
    # those whose numbers do not reach the ends of the range are searched for its steps. With scales that float16 does
    # not have, as in Q4_K, nearly so is the most that can be.
    best = _best(_rounded(groups, *one) for one in ((peak / -8, peak), (step, lowest), (-step, highest)))
    nearly = width.square() * (GROUP / (128 * _HIGHEST) ** 2)
    for error in (torch.zeros_like(nearly), nearly):
        if ((best.error <= error) & (width > 0)).float().mean() > 0.01:
            best = _improved(groups, best, best.error > error, _on_a_grid)
            break
    return _improved(groups, best, ~(best.error <= nearly), _searched)


def _improved(groups: _Groups, best: _Rounding, where: Tensor, search: Callable[[_Groups], _Rounding]) -> _Rounding:
    """Return ``best`` with what ``search`` finds for the groups ``where`` [n, 1] is true, if it is better."""
    if not where.any():
        return best
    (own,) = where[:, 0].nonzero(as_tuple=True)
    found = _better(_Rounding(*(each[own] for each in best)), search(groups.chosen(own)))
    return _Rounding(*(old.index_copy(0, own, new) for old, new in zip(best, found, strict=True)))


def _on_a_grid(groups: _Groups) -> _Rounding:
    """Round to numbers of steps of which the range, or the largest weight, is any multiple."""
    return _best(_rounded(groups, *grid) for grid in _grids(groups.weights))


def _grids(groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    lowest, highest = groups.aminmax(dim=-1, keepdim=True)
    peak = torch.where(highest >= -lowest, highest, lowest)
    for steps in range(1, _HIGHEST + 1):
        step = (highest - lowest) / steps
        yield step, lowest
        yield -step, highest
    for steps in range(1, 8):
        for step in (peak / steps, peak / -steps):
            yield step, step.half().float() * -8


def _searched(groups: _Groups) -> _Rounding:
    """Round with the range cut off in several ways, and the best of them fitted to the numbers that it gave."""
    lowest, highest = groups.weights.aminmax(dim=-1, keepdim=True)
    width = highest - lowest
    cut = ((low, high) for low in _CUTS for high in _CUTS)
    best = _best(_rounded(groups, width * ((1 - low - high) / _HIGHEST), lowest + low * width) for low, high in cut)
    for _ in range(_FITS):
        best = _better(best, _rounded(groups, *_fitted(groups, best.whole)))
    return best


def _fitted(groups: _Groups, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and the minimum that leave the least squared error with these numbers."""
    mean, mean_whole = groups.mean(groups.weights), groups.mean(whole)
    away = whole - mean_whole
    scale = groups.mean(away * (groups.weights - mean)) / groups.mean(away.square()).clamp(min=1e-9)
    return scale, mean - scale * mean_whole


def _rounded(groups: _Groups, scale: Tensor, minimum: Tensor) -> _Rounding:
    scale, minimum = scale.half().float(), minimum.half().float()
    whole = ((groups.weights - minimum) / torch.where(scale == 0, 1.0, scale)).round().clamp(0, _HIGHEST)
    error = groups.mean((whole * scale + minimum - groups.weights).square()) * GROUP
    return _Rounding(error, whole, scale, minimum)


def _better(first: _Rounding, second: _Rounding) -> _Rounding:
    """Return of each group the rounding with the smaller error; one that is no number is none."""
    better = (second.error < first.error) | first.error.isnan()
    return _Rounding(*(torch.where(better, new, old) for new, old in zip(second, first, strict=True)))


def _best(roundings: Iterator[_Rounding]) -> _Rounding:
    best = next(roundings)
    for other in roundings:
        best = _better(best, other)
    return best
