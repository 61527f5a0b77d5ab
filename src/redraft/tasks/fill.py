"""Text written between a prefix and a suffix."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from redraft.constrain.constraint import Template
from redraft.constrain.language.template import Hole, escaped
from redraft.engine.generation import Generate, Recorders
from redraft.engine.quality import check_on_canvases
from redraft.engine.request import Request, check_text, check_whole, generate
from redraft.engine.result import OnStep, Result, fields_of
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.task import Task
from redraft.engine.thinking import OF_THOUGHTS
from redraft.errors import RequestError, counted
from redraft.tasks.gaps import SHOWN, Gaps, WriteGaps, at_a_token, wanted_in_slots, width_of, write_gaps
from redraft.tasks.infill import (
    before_ending,
    beginning_of,
    check_hole,
    context_before,
    one_canvas,
    refuse,
    without_ending,
)


@dataclass(frozen=True, repr=False)
class FillResult(Result):
    """``text`` is the whole: prefix, middle, suffix. Usage counts the tokens of the canvases."""

    middle: str = ""


@dataclass(frozen=True, eq=False)
class FillRequest:
    """A fill that is checked and compiled (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    prefix: str
    suffix: str
    shown: str
    """The beginning of the suffix, as much as stands on the canvas."""
    record: Recorders | None = None
    gaps: WriteGaps | None = None
    """The middle in a slot, which is tried first; None where the checkpoint was not trained on slots."""

    def task(self, on_step: OnStep | None = None) -> Task[FillResult]:
        """Begin to write the middle, which the chunks' texts add up to."""
        written = None if self.gaps is None else (yield from self.gaps.task(on_step))
        if written is not None and not written.full:
            yield written.chunk
            middle = written.text
            return FillResult(**fields_of(written, text=self.prefix + middle + self.suffix), middle=middle)
        answer = Generate(self.runtime, self.request, self.record).task(on_step)
        result = yield from before_ending(answer, self.shown)
        middle = without_ending(result.text, self.shown)
        if written is not None:
            result = replace(result, usage=result.usage.after(written.usage))
        return FillResult(**fields_of(result, text=self.prefix + middle + self.suffix), middle=middle)


def fill(
    runtime: Runtime,
    prefix: str,
    suffix: str,
    *,
    prompt: Prompt | None = None,
    hole: Hole | None = None,
    max_tokens: int | None = None,
    record: Recorders | None = None,
    **parameters: Any,
) -> FillRequest:
    """Check a request to write what stands between ``prefix`` and ``suffix``, and return all three.

    prompt: what comes before the prefix, such as chat messages that say what is wanted. hole: what may stand there,
    any text by default. max_tokens: of the middle; by default what one canvas holds beside the suffix's beginning,
    or as many as the hole needs.
    A suffix that does not fit half a canvas is shown as far as it does. A checkpoint that was trained on slots writes
    the middle into one, where it fits, and else as any other. Other parameters, and errors, as in
    ``request.generate``; without a prefix and a prompt, where no token begins a text, it is a RequestError.
    """
    runtime.check_canvas("fill")
    check_on_canvases(parameters.get("quality"), "fill")
    refuse(parameters, ("mode", "constraint", *OF_THOUGHTS, "draft", "stop"))
    check_text("prefix", prefix)
    check_text("suffix", suffix)
    context = context_before(runtime, prompt, prefix)
    shown = beginning_of(runtime, suffix, runtime.model.config.canvas_length // 2)
    constraint = Template("{middle}" + escaped(shown), {"middle": check_hole(hole)})
    needed = runtime.min_tokens(constraint)
    if max_tokens is None:
        room = one_canvas(runtime, context, needed)
    else:
        beside = runtime.min_tokens(Template(escaped(shown)))
        room = check_whole("max_tokens", max_tokens, 1) + beside
        if room < needed:
            raise RequestError(
                f"max_tokens {max_tokens} is too small for the hole: its shortest text takes "
                f"{counted(needed - beside, 'token')}"
            )
    request = generate(runtime, context, mode="diffusion", constraint=constraint, max_tokens=room, **parameters)
    own = _in_a_slot(runtime, request, prompt, (prefix, suffix), check_hole(hole), max_tokens, parameters, record)
    return FillRequest(runtime, request, prefix, suffix, shown, record, own)


def _in_a_slot(
    runtime: Runtime,
    request: Request,
    prompt: Prompt | None,
    around: tuple[str, str],
    hole: Hole,
    max_tokens: int | None,
    parameters: Mapping[str, Any],
    record: Recorders | None,
) -> WriteGaps | None:
    prefix, space = at_a_token(around[0])
    if not wanted_in_slots(runtime, parameters) or (prompt is None and not prefix):
        return None
    shown = beginning_of(runtime, around[1], SHOWN)
    gaps = Gaps((space, shown), (hole,), (width_of(runtime, max_tokens=max_tokens),))
    return write_gaps(runtime, context_before(runtime, prompt, prefix), gaps, parameters, request, record)
