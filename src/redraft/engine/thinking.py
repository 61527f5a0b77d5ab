"""Thinking: what a request's words for it come to (if, how long, how carefully), and the budget of a thought."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from redraft.canvas.step import Pinned
from redraft.constrain.compiler import ThoughtMarkers
from redraft.errors import RequestError

ReasoningEffort = Literal["none", "instant", "minimal", "low", "medium", "high", "xhigh", "max"]
OF_THOUGHTS = ("thinking", "thinking_budget", "reasoning_effort", "chat_template_kwargs")
"""A request's parameters that are about what the model thinks."""
_SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True)
class Effort:
    """The meaning of a word for the effort."""

    thinks: bool
    care: float = 1.0
    """The checkpoint's denoising steps times it are the limit, its entropy bound is divided by it."""

    def steps(self, default: int) -> int:
        """Return the limit of denoising steps."""
        return max(1, round(default * self.care))

    def entropy_bound(self, default: float) -> float:
        """Return the nats that one step may accept."""
        return default / self.care


EFFORTS: Mapping[str, Effort] = {
    "none": Effort(False),
    "instant": Effort(False, 0.5),
    "minimal": Effort(False, 0.5),
    "low": Effort(True, 0.5),
    "medium": Effort(True),
    "high": Effort(True, 2.0),
    "xhigh": Effort(True, 2.0),
    "max": Effort(True, 2.0),
}


def check_effort(word: object) -> Effort | None:
    """Return what ``word`` asks for, or None for None; RequestError for a word that is none."""
    if word is None:
        return None
    if not isinstance(word, str) or word not in EFFORTS:
        raise RequestError(f"reasoning_effort {word!r} must be one of {', '.join(EFFORTS)}")
    return EFFORTS[word]


def wants_thought(
    thinking: object, effort: object = None, budget: object = None, template: Mapping[str, Any] | None = None
) -> bool:
    """Tell whether the model is to think: by ``thinking`` or its switch among the ``template``'s variables, where they
    say it, else by the ``effort``, else because a thought has a ``budget``.

    Raises RequestError for what is no switch or effort, and where two of them contradict each other.
    """
    said = {"thinking": thinking}
    said |= {f"chat_template_kwargs: {name}": template[name] for name in _SWITCHES if template and name in template}
    given = {name: value for name, value in said.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise RequestError(f"{name} {value!r} must be True or False")
    found = check_effort(effort)
    if found is not None and (not found.thinks and effort == "none"):
        given["reasoning_effort 'none'"] = False
    if budget is not None:
        given["thinking_budget"] = True
    if len(set(given.values())) > 1:
        yes, no = (next(name for name, value in given.items() if value is wanted) for wanted in (True, False))
        raise RequestError(f"{yes} asks for a thought, and {no} for none; leave one of them out")
    if given:
        return bool(next(iter(given.values())))
    return found is not None and found.thinks


def without_switches(template: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the template's variables but for those that ``wants_thought`` reads."""
    if template is not None and not isinstance(template, Mapping):
        raise RequestError(f"chat_template_kwargs {template!r} must be a mapping of names to values")
    return {name: value for name, value in (template or {}).items() if name not in _SWITCHES}


class ThoughtBudget:
    """Counts the tokens of an answer's thoughts, all blocks together, their markers not among them."""

    def __init__(self, markers: ThoughtMarkers, budget: int, end_token_ids: Collection[int]) -> None:
        self._markers, self._left, self._ends = markers, budget, end_token_ids
        self._inside = self._begun = False

    @property
    def closing(self) -> int:
        """The token that ends a thought."""
        return self._markers.closing

    @property
    def markers_of_more(self) -> tuple[int, ...]:
        """The token that begins a thought, which has no place behind one that was ended here."""
        return (self._markers.opening,)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """The tokens that have no place on the next canvas: none as long as there may be a thought."""
        return self.markers_of_more if self._begun and not self._left else ()

    @property
    def spent(self) -> bool:
        """True within a thought that the next token has to end."""
        return self._inside and not self._left

    def take(self, tokens: Sequence[int]) -> None:
        """Count tokens that became part of the answer."""
        for token in tokens:
            self._count(token)
            self._begun = self._begun or self._inside

    def overrun(self, tokens: Sequence[int]) -> int | None:
        """Return the place among the ``tokens`` that come next at which a thought would pass the budget, if one
        would."""
        inside, left = self._inside, self._left
        try:
            for place, token in enumerate(tokens):
                if token in self._ends:
                    break
                if self.spent and token != self._markers.closing:
                    return place
                self._count(token)
            return None
        finally:
            self._inside, self._left = inside, left

    def unchanged(self, tokens: Sequence[int]) -> int:
        """Return how many of the ``tokens`` that come next may stand before what is forbidden, or forced, changes."""
        kept = self._inside, self._left, self._begun
        rules = self.spent, self.forbidden
        try:
            for place, token in enumerate(tokens):
                self.take([token])
                if (self.spent, self.forbidden) != rules:
                    return place
            return len(tokens)
        finally:
            self._inside, self._left, self._begun = kept

    def ended(self, canvas: Tensor, place: int) -> Pinned:
        """Pin a canvas [C] up to ``place``, where the thought ends."""
        tokens = canvas.clone()
        tokens[place] = self._markers.closing
        return Pinned(torch.arange(len(canvas)) <= place, tokens)

    def _count(self, token: int) -> None:
        if not self._inside:
            self._inside = token == self._markers.opening
        elif token == self._markers.closing:
            self._inside = False
        else:
            self._left -= 1
