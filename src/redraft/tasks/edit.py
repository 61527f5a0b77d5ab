"""Text rewritten in the place of spans, or as a whole by an instruction; all else stays byte for byte."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from redraft.canvas.draft import Draft
from redraft.constrain.compiler import CompiledConstraint
from redraft.constrain.constraint import Template
from redraft.constrain.language.template import Hole, escaped
from redraft.engine.generation import Generate, Recorders
from redraft.engine.quality import check_on_canvases
from redraft.engine.request import Request, check_number, check_text, generate
from redraft.engine.result import OnStep, Result, Usage, fields_of
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.task import Task
from redraft.engine.thinking import OF_THOUGHTS
from redraft.errors import ConstraintError, RequestError, counted
from redraft.tasks.gaps import (
    SHOWN,
    CompiledGaps,
    Gaps,
    WriteGaps,
    at_a_token,
    compiled_gaps,
    wanted_in_slots,
    width_of,
    write_gaps,
)
from redraft.tasks.infill import (
    before_ending,
    beginning_of,
    check_holes,
    context_before,
    draft_of,
    one_canvas,
    refuse,
    without_ending,
)

STRENGTH = 0.8
"""The share of the old text that is noise, where nobody says it."""


@dataclass(frozen=True, repr=False)
class EditResult(Result):
    """``text`` is the whole edited text."""

    replacements: tuple[str, ...] = ()
    """The texts in the place of each span, in their order; empty where the whole was rewritten."""


@dataclass(frozen=True)
class _Group:
    """Spans that stand so close that they are rewritten on the same canvas."""

    spans: list[tuple[int, int]]

    @property
    def start(self) -> int:
        return self.spans[0][0]

    @property
    def end(self) -> int:
        return self.spans[-1][1]


@dataclass(frozen=True)
class _Canvas:
    """The constraint of a group of spans, and what it starts from."""

    frame: Template
    """From the first span to the end of the last one."""
    shown: str
    """The text that follows them on the canvas."""
    constraint: Template
    """Both."""
    compiled: CompiledConstraint
    """Held here so that it is at hand when the group's turn comes."""
    draft: Draft
    gaps: Gaps | None = None
    """The spans as gaps between what stays, to be tried first; None where they are not to be slots."""
    compiled_gaps: CompiledGaps | None = None
    """The automaton of what may stand in these, held as ``compiled`` is."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """An edit of spans that is checked and compiled (a ``task.Runnable``)."""

    runtime: Runtime
    prompt: Prompt | None
    text: str
    spans: Sequence[tuple[int, int]]
    groups: Sequence[_Group]
    canvases: Sequence[_Canvas]
    """One for each group."""
    parameters: Mapping[str, Any]
    request: Request
    """The request of the first group; what is asked for the others depends on what it says."""
    record: Recorders | None = None

    def task(self, on_step: OnStep | None = None) -> Task[EditResult]:
        """Begin to rewrite the spans. The chunks' texts are what is written from the first span on a canvas to the end
        of the last one."""
        done, position, parameters, request = "", 0, self.parameters, self.request
        results: list[Result] = []
        replacements: dict[tuple[int, int], str] = {}
        for index, (group, canvas) in enumerate(zip(self.groups, self.canvases, strict=True)):
            done += self.text[position : group.start]
            if index:
                request = _request(self.runtime, self.prompt, done, canvas, parameters)
            in_slots = self._in_slots(request, done, canvas, parameters)
            own = None if in_slots is None else (yield from in_slots.task(on_step))
            if own is not None and not own.full:
                yield own.chunk
                result, written, values = Result(**fields_of(own)), own.text, list(own.written)
            else:
                answer = Generate(self.runtime, request, self.record).task(on_step)
                result = yield from before_ending(answer, canvas.shown)
                if own is not None:
                    result = replace(result, usage=result.usage.after(own.usage))
                written = without_ending(result.text, canvas.shown)
                values = _values(canvas.frame, written)
            replacements |= dict(zip(group.spans, values, strict=True))
            done += written
            position = group.end
            results.append(result)
            # The next group's noise is its own: the same noise would make similar spans say the same.
            # The time has begun with the first.
            parameters = {**parameters, "seed": (result.seed + 1) % (1 << 64), "deadline_ms": request.deadline}
        whole = done + self.text[position:]
        return EditResult(
            **fields_of(_together(results), text=whole), replacements=tuple(replacements[span] for span in self.spans)
        )

    def _in_slots(
        self, request: Request, before: str, canvas: _Canvas, parameters: Mapping[str, Any]
    ) -> WriteGaps | None:
        """Return the request for the spans of a canvas as gaps behind the text ``before`` them; None where they are
        written as a text."""
        prefix, _ = at_a_token(before)
        if canvas.gaps is None or (self.prompt is None and not prefix):
            return None
        context = context_before(self.runtime, self.prompt, prefix)
        return write_gaps(self.runtime, context, canvas.gaps, parameters, request, self.record, canvas.compiled_gaps)


@dataclass(frozen=True, eq=False)
class RewriteRequest:
    """An edit of a whole text that is checked and compiled (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    record: Recorders | None = None

    def task(self, on_step: OnStep | None = None) -> Task[EditResult]:
        """Begin to write the text afresh, which the chunks' texts add up to."""
        return EditResult(**fields_of((yield from Generate(self.runtime, self.request, self.record).task(on_step))))


def edit(
    runtime: Runtime,
    text: str,
    spans: Sequence[tuple[int, int]] | None = None,
    *,
    instruction: str | None = None,
    strength: float | None = None,
    hole: Hole | Sequence[Hole] | None = None,
    record: Recorders | None = None,
    **parameters: Any,
) -> EditRequest | RewriteRequest:
    """Check a request to rewrite the ``spans`` of ``text``, (start, end) in characters, or with an instruction alone
    all of it.

    Everything outside of the spans stays as it is, byte for byte. instruction: said to the model as a user's message,
    along with the text. strength: the share of the old text that is noise in the starting canvas, 0 to 1, by default
    0.8; the rest the model may keep or not. Without it, or with 1, a checkpoint that was trained on slots writes spans
    into slots, from nothing, where they fit. hole: what may stand in the spans, one for all or one each; any text by
    default. record: keeps what happens. Other parameters, and errors, as in ``request.generate``.
    """
    runtime.check_canvas("edit")
    check_on_canvases(parameters.get("quality"), "edit")
    refuse(parameters, (*OF_THOUGHTS, "draft", "stop", *(("constraint",) if spans is not None else ())))
    check_text("text", text)
    if instruction is not None:
        check_text("instruction", instruction)
    if strength is not None and check_number("strength", strength, 0) > 1:
        raise RequestError(f"strength {strength} must be from 0 (start from the old text) to 1 (start from noise)")
    in_slots = strength in (None, 1) and wanted_in_slots(runtime, parameters)
    noise = STRENGTH if strength is None else strength
    if spans is None:
        if instruction is None:
            raise RequestError("edit needs spans that are to change, an instruction, or both")
        if hole is not None:
            raise RequestError("hole says what may stand in spans, and there are none; use constraint for the whole")
        asked = runtime.tokenize(runtime.asked_of(text, instruction))
        draft = draft_of(runtime, [(text, 1 - noise)])
        request = generate(runtime, asked, mode="diffusion", draft=draft, **parameters)
        return RewriteRequest(runtime, request, record)
    ordered = check_spans(text, spans)
    holes = dict(zip(ordered, check_holes(hole, len(ordered)), strict=True))
    prompt = None if instruction is None else runtime.asked_of(text, instruction)
    groups = _groups(runtime, text, ordered)
    borders = [*(group.start for group in groups[1:]), len(text)]
    canvases = [_canvas(runtime, text, *places, holes, noise) for places in zip(groups, borders, strict=True)]
    if in_slots:
        canvases = [
            _with_gaps(runtime, canvas, _gaps(runtime, text, group, border, holes, parameters))
            for canvas, group, border in zip(canvases, groups, borders, strict=True)
        ]
    for canvas in canvases:
        # What cannot be written is to be refused before anything is.
        needed, given = canvas.compiled.min_tokens, parameters.get("max_tokens")
        if isinstance(given, int) and given < needed:
            raise RequestError(
                f"max_tokens {given} is too small for a canvas whose shortest text takes {counted(needed, 'token')}"
            )
    first = _request(runtime, prompt, text[: groups[0].start], canvases[0], parameters)
    return EditRequest(runtime, prompt, text, ordered, groups, canvases, parameters, first, record)


def _request(
    runtime: Runtime, prompt: Prompt | None, before: str, canvas: _Canvas, parameters: Mapping[str, Any]
) -> Request:
    """Make the request for one canvas of an edit, after the text ``before`` it."""
    instead = "an instruction, or let the first span begin behind the first character"
    context = context_before(runtime, prompt, before, instead=instead)
    settings = {"max_tokens": one_canvas(runtime, context, canvas.compiled.min_tokens), **parameters}
    return generate(runtime, context, mode="diffusion", constraint=canvas.constraint, draft=canvas.draft, **settings)


def _values(frame: Template, written: str) -> list[str]:
    """Return what stands in the holes of a frame that begins and ends with one."""
    # Reading a frame takes time that grows with its length, and of a single hole there is nothing to be read.
    return [written] if len(frame.holes) == 1 else list(frame.values(written).values())


def _canvas(
    runtime: Runtime, text: str, group: _Group, following: int, holes: Mapping[tuple[int, int], Hole], strength: float
) -> _Canvas:
    """Plan the canvas of one group of spans, which shows some of the text up to the ``following`` one."""
    shown = beginning_of(runtime, text[group.end : following], runtime.model.config.canvas_length // 4)
    frame, old, holes_of, position = "", [], {}, group.start
    for number, (start, end) in enumerate(group.spans):
        frame += escaped(text[position:start]) + f"{{span{number}}}"
        old += [(text[position:start], 1.0), (text[start:end], 1 - strength)]
        holes_of[f"span{number}"] = holes[start, end]
        position = end
    constraint = Template(frame + escaped(shown), holes_of)
    draft = draft_of(runtime, [*old, (shown, 1.0)])
    return _Canvas(Template(frame, holes_of), shown, constraint, runtime.compile(constraint), draft)


def _gaps(
    runtime: Runtime,
    text: str,
    group: _Group,
    following: int,
    holes: Mapping[tuple[int, int], Hole],
    parameters: Mapping[str, Any],
) -> Gaps:
    """Plan the same canvas with a slot for each span."""
    most, ends = parameters.get("max_tokens"), [end for _, end in group.spans]
    between = [text[end:start] for end, (start, _) in zip(ends, group.spans[1:], strict=False)]
    shown = beginning_of(runtime, text[group.end : following], SHOWN)
    widths = [width_of(runtime, text[start:end], most) for start, end in group.spans]
    _, space = at_a_token(text[: group.start])
    return Gaps((space, *between, shown), tuple(holes[span] for span in group.spans), tuple(widths))


def _with_gaps(runtime: Runtime, canvas: _Canvas, gaps: Gaps) -> _Canvas:
    """Compile what may stand in the gaps before anything is written; where that cannot be they are no slots."""
    try:
        compiled = compiled_gaps(runtime, gaps, runtime.model.defaults.end_token_ids)
    except ConstraintError:
        return canvas
    return replace(canvas, gaps=gaps, compiled_gaps=compiled)


def _groups(runtime: Runtime, text: str, spans: Sequence[tuple[int, int]]) -> list[_Group]:
    """Neighbouring spans together, as long as they and what is between them take no more than half a canvas."""
    most = runtime.model.config.canvas_length // 2
    groups: list[_Group] = []
    for span in spans:
        if groups and len(runtime.tokenizer.encode_text(text[groups[-1].start : span[1]], literal=True)) <= most:
            groups[-1].spans.append(span)
        else:
            groups.append(_Group([span]))
    return groups


def check_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans, which must be in order; RequestError where they are not, or not within the text."""
    if not isinstance(spans, Sequence) or isinstance(spans, str):
        raise RequestError(f"spans {spans!r} must be a list of (start, end) in characters")
    checked = []
    last = 0
    for index, span in enumerate(spans):
        try:
            start, end = span
            usable = type(start) is int and type(end) is int and last <= start <= end <= len(text)
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise RequestError(
                f"span {index} is {span!r}; spans are (start, end) in characters, in order and apart, within the "
                f"{len(text)} characters of the text"
            )
        checked.append((start, end))
        last = end
    if not checked or len(set(checked)) < len(checked):
        raise RequestError("spans must be one span or more, each once")
    return checked


def _together(results: Sequence[Result]) -> Result:
    """The results of several canvases one after the other as one."""
    first = results[0]
    counts = [asdict(result.usage) for result in results]
    usage = {name: sum(count[name] for count in counts) for name in counts[0]}
    unconverged, canvases = [], 0
    for result in results:
        unconverged += [canvases + index for index in result.unconverged_canvases]
        canvases += result.usage.canvases
    return replace(
        first,
        token_ids=tuple(token for result in results for token in result.token_ids),
        finish_reason="length" if any(result.finish_reason == "length" for result in results) else "stop",
        unconverged_canvases=tuple(unconverged),
        verified=None if first.verified is None else all(result.verified for result in results),
        log_valid=tuple(value for result in results for value in result.log_valid),
        deadline_reached=any(result.deadline_reached for result in results),
        usage=Usage(**{**usage, "time_to_first_token": first.usage.time_to_first_token}),
    )
