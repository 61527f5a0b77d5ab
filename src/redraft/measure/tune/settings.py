"""Settings for a task: a mode, and of canvases the steps, the rule of acceptance and the length."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.engine.request import check_mode, check_number, check_whole
from redraft.errors import RequestError
from redraft.models.base import BlockDiffusionModel, GenerationMode


@dataclass(frozen=True)
class Setting:
    """One way to answer; what is None is the checkpoint's own."""

    mode: GenerationMode | None = None
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    canvas_length: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters by the names of an item's ``parameters``."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def name(self) -> str:
        """A name that tells it from others."""
        words = {
            "mode": "{}",
            "max_denoising_steps": "{} steps",
            "entropy_bound": "bound {:g}",
            "confidence_threshold": "threshold {:g}",
            "canvas_length": "canvas {}",
        }
        own = self.parameters
        return ", ".join(words[name].format(own[name]) for name in words if name in own) or "as the checkpoint says"


@dataclass(frozen=True)
class Grid:
    """The values that are tried; of canvases every combination of steps and acceptance, then the lengths of those that
    are worth their cost."""

    steps: Sequence[int]
    bounds: Sequence[float]
    thresholds: Sequence[float]
    canvas_lengths: Sequence[int]
    modes: Sequence[GenerationMode]
    longest: int = 0
    """The checkpoint's own canvas length, which a setting need not name."""

    @classmethod
    def of(
        cls,
        model: BlockDiffusionModel,
        *,
        steps: Sequence[int] = (),
        bounds: Sequence[float] = (),
        thresholds: Sequence[float] = (),
        canvas_lengths: Sequence[int] = (),
        modes: Sequence[str] = (),
        generates: bool = True,
    ) -> "Grid":
        """Make the grid of a model: what is given, and for what is empty values around the checkpoint's own.

        ``generates``: all that is asked is to generate; other verbs know canvases alone. Raises RequestError for a
        value that the model cannot have.
        """
        has = tuple(model.modes) if generates else tuple(one for one in model.modes if one == "diffusion")
        if not has:
            raise RequestError("the items ask for fill, edit, choose or extract, and this checkpoint has no canvas")
        chosen = tuple(check_mode(mode, has) for mode in modes) or has
        if "diffusion" not in chosen:
            for name, given in (("--steps", steps), ("--bound", bounds), ("--threshold", thresholds),
                                ("--canvas-length", canvas_lengths)):  # fmt: skip
                if given:
                    raise RequestError(f"{name} is for canvases, and of the modes to try none is 'diffusion'")
            return cls((), (), (), (), chosen)
        own, longest = model.defaults.max_denoising_steps, model.config.canvas_length
        rule = model.defaults.acceptance_rule
        if not bounds and not thresholds:
            if isinstance(rule, ConfidenceThreshold):
                thresholds = sorted({0.5, 0.7, 0.8, 0.9, 0.95, rule.threshold})
            else:
                base = model.defaults.entropy_bound
                bounds = [base * factor for factor in (0.25, 1.0, 4.0, 16.0)]
        return cls(
            [check_whole("--steps", one, 1) for one in steps] or sorted({max(1, own >> shift) for shift in range(5)}),
            [check_number("--bound", one, 0) for one in bounds],
            [_threshold(one) for one in thresholds],
            [check_whole("--canvas-length", one, 1, longest) for one in canvas_lengths]
            or sorted({longest, max(1, longest // 2), max(1, longest // 4)}),
            chosen,
            longest,
        )

    def canvases(self) -> Iterator[Setting]:
        """Yield every combination of steps and acceptance, on canvases of the longest length that is tried."""
        if "diffusion" not in self.modes:
            return
        length = max(self.canvas_lengths)
        rules = [{"entropy_bound": one} for one in self.bounds]
        rules += [{"confidence_threshold": one} for one in self.thresholds]
        for steps, rule in product(self.steps, rules):
            yield Setting("diffusion", steps, **rule, canvas_length=None if length == self.longest else length)

    def shorter(self, settings: Sequence[Setting]) -> Iterator[Setting]:
        """Yield the same settings on shorter canvases."""
        for setting, length in product(settings, sorted(self.canvas_lengths, reverse=True)[1:]):
            if setting.mode == "diffusion":
                yield replace(setting, canvas_length=length)

    def others(self) -> Iterator[Setting]:
        """Yield the modes that write tokens."""
        for mode in self.modes:
            if mode != "diffusion":
                yield Setting(mode)


def _threshold(value: float) -> float:
    try:
        return ConfidenceThreshold(value).threshold
    except ValueError as error:
        raise RequestError(f"--threshold: {error}") from error
