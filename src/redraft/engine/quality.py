"""``quality``: one word for how carefully an answer is written, in the place of steps, a bound and a mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from redraft.canvas.acceptance import AcceptanceRule, ConfidenceThreshold, EntropyBound
from redraft.errors import RequestError
from redraft.models.base import GenerationDefaults, GenerationMode

Quality = Literal["fast", "balanced", "exact"]


@dataclass(frozen=True)
class Care:
    """The meaning of a word for the quality."""

    care: float
    """The checkpoint's denoising steps times it are the limit, its entropy bound is divided by it."""
    modes: tuple[GenerationMode, ...] = ()
    """The modes to write in, of which the first that the checkpoint has counts; empty for its own default."""

    def steps(self, defaults: GenerationDefaults) -> int:
        """Return the limit of denoising steps."""
        return max(1, round(defaults.max_denoising_steps * self.care))

    def acceptance(self, defaults: GenerationDefaults) -> AcceptanceRule:
        """Return the checkpoint's rule with its bound, or with its threshold as far from 1."""
        match defaults.acceptance_rule:
            case EntropyBound(bound):
                return EntropyBound(bound / self.care)
            case ConfidenceThreshold(threshold):
                return ConfidenceThreshold(max(0.5, 1 - (1 - threshold) / self.care))
            case rule:
                return rule

    def mode(self, given: GenerationMode | None, modes: Sequence[GenerationMode]) -> GenerationMode | None:
        """Return the mode to write in, of those that a checkpoint has; RequestError where ``given`` is another, or
        there is none."""
        if not self.modes:
            return given
        if given is not None and given not in self.modes:
            raise RequestError(
                f"quality 'exact' is written in mode {' or '.join(map(repr, self.modes))}, not in {given!r}; leave "
                "one of them out"
            )
        found = next((mode for mode in self.modes if mode in modes), None)
        if found is None:
            raise RequestError(
                "quality 'exact' is the autoregressive mode's own distribution, and this checkpoint has no such mode; "
                "use 'fast' or 'balanced'"
            )
        return given or found


QUALITIES: Mapping[str, Care] = {
    "fast": Care(0.5),
    "balanced": Care(1.0),
    # The distribution of the autoregressive mode, exactly, however fast it comes about.
    "exact": Care(1.0, ("speculative", "autoregressive")),
}


def check_on_canvases(word: object, verb: str) -> None:
    """Refuse, of a verb that writes on canvases alone, the word that asks for another mode."""
    if isinstance(word, str) and word in QUALITIES and QUALITIES[word].modes:
        others = " or ".join(repr(one) for one, care in QUALITIES.items() if not care.modes)
        raise RequestError(
            f"quality {word!r} is the autoregressive mode's own distribution, and {verb} writes on canvases alone; use "
            f"{others}"
        )


def check_quality(word: object, **beside: object) -> Care | None:
    """Return what ``word`` asks for, or None for None.

    ``beside``: parameters that say the same in numbers. RequestError for a word that is none, and for one of these.
    """
    if word is None:
        return None
    if not isinstance(word, str) or word not in QUALITIES:
        raise RequestError(f"quality {word!r} must be one of {', '.join(get_args(Quality))}")
    for name, value in beside.items():
        if value is not None:
            raise RequestError(f"quality and {name} exclude each other; quality stands for steps, a bound and a mode")
    return QUALITIES[word]
