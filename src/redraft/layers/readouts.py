"""Reads many canvases off one head: rows that want the same share a pass over the vocabulary."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.canvas.shaping import RowShaping, Shaping
from redraft.canvas.token_classes import TokenClasses


class Head(Protocol):
    """Turns hidden states into what ``VocabularyHead.read`` says, a temperature for each row."""

    def read(
        self,
        hidden: Tensor,
        temperature: float | Tensor,
        uniforms: Tensor | None,
        *,
        self_conditioning: bool = True,
        top_k: int = 0,
        classes: TokenClasses | None = None,
        shaping: RowShaping | None = None,
    ) -> Readout: ...


def read_canvases(head: Head, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
    """Read each canvas's hidden rows [C, H] as its spec asks.

    Canvases with the same token classes, and as much wanted, are read in one pass over the vocabulary, those whose
    logits are shaped in another. What a row says depends on that row alone, so that it is the same however many there
    are.
    """
    groups: dict[tuple[int, bool, bool], list[int]] = {}
    for index, spec in enumerate(specs):
        groups.setdefault((id(spec.classes), spec.self_conditioning, spec.shaping is None), []).append(index)
    found: dict[int, Readout] = {}
    for (_, self_conditioning, _), members in groups.items():
        own = [(hidden[index], specs[index]) for index in members]
        whole = head.read(
            own[0][0] if len(own) == 1 else torch.cat([rows for rows, _ in own]),
            own[0][1].temperature if len(own) == 1 else _temperatures(own),
            _uniforms(own),
            self_conditioning=self_conditioning,
            top_k=max(spec.top_logprobs for _, spec in own),
            classes=own[0][1].classes,
            shaping=_shaping(own),
        )
        start = 0
        for index, (rows, spec) in zip(members, own, strict=True):
            one = whole if len(own) == 1 else whole.rows(slice(start, start + len(rows)))
            found[index] = _narrowed(one, spec)
            start += len(rows)
    return [found[index] for index in range(len(specs))]


def _temperatures(own: Sequence[tuple[Tensor, ReadoutSpec]]) -> Tensor:
    return torch.cat([torch.full((len(rows),), spec.temperature, dtype=torch.float64) for rows, spec in own])


def _shaping(own: Sequence[tuple[Tensor, ReadoutSpec]]) -> RowShaping | None:
    if own[0][1].shaping is None:
        return None
    return RowShaping.of([(len(rows), spec.temperature, spec.shaping or Shaping()) for rows, spec in own])


def _uniforms(own: Sequence[tuple[Tensor, ReadoutSpec]]) -> Tensor | None:
    """Return the uniforms that pick the samples; greedy rows draw too where others do, and their draw is not used."""
    given = [spec.uniforms for _, spec in own]
    if all(uniforms is None for uniforms in given):
        return None
    if len(given) == 1:
        return given[0]
    return torch.cat(
        [
            torch.zeros(len(rows), dtype=torch.float64) if uniforms is None else uniforms
            for (rows, _), uniforms in zip(own, given, strict=True)
        ]
    )


def _narrowed(readout: Readout, spec: ReadoutSpec) -> Readout:
    """Leave out what others on the same pass asked for."""
    count = spec.top_logprobs
    if spec.uniforms is not None and readout.top_ids is None:
        return readout
    return replace(
        readout,
        sample=readout.argmax if spec.uniforms is None else readout.sample,
        top_ids=None if readout.top_ids is None or not count else readout.top_ids[:, :count],
        top_logprobs=None if readout.top_logprobs is None or not count else readout.top_logprobs[:, :count],
    )
