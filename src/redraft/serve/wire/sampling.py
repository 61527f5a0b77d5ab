"""The sampling parameters that wire formats have in common, by the names that most of them use, and the mode."""

from typing import Annotated, Any, Literal

from pydantic import Field

from redraft.engine.quality import Quality
from redraft.engine.sampling import MAX_BIAS, MAX_PENALTY, NOTHING, REPETITION
from redraft.models.base import GenerationMode
from redraft.serve.wire.fields import Body, only

TopP = Annotated[float, Field(ge=0, le=1)]
# -1 and 0 leave all tokens.
TopK = Annotated[int, Field(ge=-1)]
Penalty = Annotated[float, Field(ge=-MAX_PENALTY, le=MAX_PENALTY)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]

DeadlineMs = Annotated[float, Field(gt=0)]
CanvasMode = Annotated[
    Literal["diffusion"] | None, only("diffusion", instead="what stands between two texts is written on canvases")
]
"""The mode of what knows canvases alone."""

SAMPLING = ("mode", "deadline_ms", "quality", *vars(NOTHING))
"""The names, which are the engine's as well."""


class Drawn(Body):
    """A body that says how tokens of canvases are drawn, and what that may cost."""

    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    deadline_ms: DeadlineMs | None = None
    quality: Quality | None = None


DRAWN = tuple(Drawn.model_fields)
"""The names, which are the engine's as well."""


class Sampled(Drawn):
    """A body that takes all sampling parameters."""

    mode: GenerationMode | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    logit_bias: dict[str, Bias] | None = None
    repetition_penalty: Annotated[float, Field(ge=REPETITION[0], le=REPETITION[1])] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """Its parameters by the engine's names; None where it says nothing."""
        return {
            "mode": self.mode,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "logit_bias": self.logit_bias,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "stop_token_ids": self.stop_token_ids,
            "deadline_ms": self.deadline_ms,
            "quality": self.quality,
        }
