"""The sampling that a ``generation_config.json`` asks for, in the modes that write token after token.

A canvas has a schedule and rules of its own (``GenerationDefaults``); nothing of this is meant for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What the other fields say that decide what is sampled, where they ask for nothing; None always does.
_NOTHING: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty", "top_h", "guidance_scale"), (1.0,)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "diversity_penalty", "penalty_alpha"), (0.0,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), (0,)),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings"), ([],)),
    **dict.fromkeys(("sequence_bias", "watermarking_config"), ({}, [])),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    # A released checkpoint says 256, which would cut every longer answer.
    "max_new_tokens": (),
    "max_length": (20,),
    "max_time": (),
}


@dataclass(frozen=True)
class SamplingDefaults:
    """A checkpoint's own sampling of tokens, one by one; the defaults ask for nothing."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    unread: tuple[str, ...] = ()
    """The fields of the file besides that are not honoured, each as "name value"."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, math.inf)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int)):
            raise ValueError(f"top_k {self.top_k!r} must be a whole number")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be 1 or more")

    @classmethod
    def read(cls, generation: Mapping[str, Any]) -> "SamplingDefaults":
        """Read the fields of a file; absent and null ones ask for nothing. One whose ``do_sample`` is false takes the
        likeliest token, and says nothing of how to draw. Raises ValueError for what no field may be."""
        unread = tuple(f"{name} {generation[name]!r}" for name in _NOTHING if _asks(name, generation.get(name)))
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        found = {name: generation[name] for name in names if generation.get(name) is not None}
        if found.get("top_k") in (0, -1):
            del found["top_k"]
        if generation.get("do_sample") is False:
            found = {"temperature": 0.0, **{name: found[name] for name in found if name == "repetition_penalty"}}
        return cls(**found, unread=unread)

    def as_object(self) -> dict[str, Any]:
        """Return the same fields for a file; nothing where it is what a file without them says."""
        nothing = SamplingDefaults()
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        own = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(nothing, name)}
        if own.get("temperature") == 0:
            return {**{name: value for name, value in own.items() if name != "temperature"}, "do_sample": False}
        return {"do_sample": True, **own} if own else {}


def _asks(name: str, value: object) -> bool:
    return value is not None and value is not False and value not in _NOTHING[name]


def _check(name: str, value: object, minimum: float, maximum: float) -> None:
    """Raise ValueError for what is no number between two; an infinite one is none."""
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not number or not minimum <= value <= maximum:  # type: ignore[operator]  # a number by then
        upper = f"from {minimum:g} to {maximum:g}" if maximum < math.inf else f"of {minimum:g} or more"
        raise ValueError(f"{name} {value!r} must be a finite number {upper}")
