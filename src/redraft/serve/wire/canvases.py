"""Fields that Redraft's own routes share: which model, and how its canvases are denoised."""

from typing import Annotated, Literal

from pydantic import Field

from redraft.serve.wire.fields import Body, Seed, Temperature, Whole


class Denoised(Body):
    """A body whose answer is read off canvases."""

    model: str | None = None
    seed: Seed = None
    max_denoising_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    canvas_length: Whole | Literal["auto"] | None = None


class Written(Denoised):
    """A body whose answer is written on canvases."""

    max_tokens: Whole | None = None
    temperature: Temperature | None = None
    entropy_bound: Annotated[float, Field(ge=0)] | None = None


WRITTEN = ("max_tokens", "seed", "temperature", "max_denoising_steps", "canvas_length", "entropy_bound")
"""The names of its parameters, which are the engine's as well."""
