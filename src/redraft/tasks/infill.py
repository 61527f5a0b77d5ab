"""Text written into text: between a prefix and a suffix, or in the place of spans that are to change.

What must stay is part of the constraint, so that it comes back byte for byte; what comes before the canvas is encoded
as context, and so much of what follows as a canvas can show stands on it from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from redraft.constrain.compiler import CompiledConstraint
from redraft.constrain.constraint import Template
from redraft.constrain.language.template import Hole, escaped
from redraft.engine.generation import Generation
from redraft.engine.request import Draft, Request, check_number, check_text, check_whole
from redraft.engine.result import Chunk, OnStep, Result, Usage, fields_of
from redraft.engine.task import Work
from redraft.engine.text import overlap
from redraft.errors import ConstraintError, RequestError
from redraft.models.tokenizer import Check

if TYPE_CHECKING:
    from redraft.api import Engine, Prompt, Recorders


@dataclass(frozen=True)
class FillResult(Result):
    """``text`` is the whole: prefix, middle, suffix. Usage counts the tokens of the canvases."""

    middle: str = ""


@dataclass(frozen=True)
class EditResult(Result):
    """``text`` is the whole edited text."""

    replacements: tuple[str, ...] = ()
    """What stands in the place of each span, in their order; empty where the whole was rewritten."""


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
    """What a group of spans is written under, and what it starts from."""

    frame: Template
    """From the first span to the end of the last one."""
    shown: str
    """What follows them on the canvas."""
    constraint: Template
    """Both."""
    compiled: CompiledConstraint
    """Held here so that it is at hand when the group's turn comes."""
    draft: Draft


@dataclass(frozen=True)
class Fill:
    """A fill that is checked and compiled; its work may begin any number of times."""

    engine: "Engine"
    request: Request
    prefix: str
    suffix: str
    shown: str
    """As much of the suffix as stands on the canvas."""

    def work(self, on_step: OnStep | None = None, record: "Recorders | None" = None) -> Work[FillResult]:
        """Write the middle. The chunks' texts, one after the other, are the middle; on_step and record as in
        ``Engine.stream``."""
        return self._filled(self.engine.begin(self.request, on_step, record))

    def _filled(self, generation: Generation) -> Work[FillResult]:
        result = yield from _before(generation.work, self.shown)
        middle = _without(result.text, self.shown)
        return FillResult(**fields_of(result, text=self.prefix + middle + self.suffix), middle=middle)


@dataclass(frozen=True)
class Edit:
    """An edit of spans that is checked and compiled; its work may begin any number of times."""

    engine: "Engine"
    prompt: "Prompt | None"
    text: str
    spans: Sequence[tuple[int, int]]
    groups: Sequence[_Group]
    canvases: Sequence[_Canvas]
    """One for each group."""
    parameters: Mapping[str, Any]
    first: Request
    """Of the first group; what the others are asked after depends on what it says."""

    def work(self, on_step: OnStep | None = None, record: "Recorders | None" = None) -> Work[EditResult]:
        """Rewrite the spans. The chunks' texts are what is written from the first span on a canvas to the end of the
        last one; on_step and record as in ``Engine.stream``."""
        return self._edited(self.engine.begin(self.first, on_step, record), on_step, record)

    def _edited(self, generation: Generation, on_step: OnStep | None, record: "Recorders | None") -> Work[EditResult]:
        done, position, parameters = "", 0, self.parameters
        results: list[Result] = []
        replacements: dict[tuple[int, int], str] = {}
        for index, (group, canvas) in enumerate(zip(self.groups, self.canvases, strict=True)):
            done += self.text[position : group.start]
            if index:
                request = _request(self.engine, self.prompt, done, canvas, parameters)
                generation = self.engine.begin(request, on_step, record)
            result = yield from _before(generation.work, canvas.shown)
            written = _without(result.text, canvas.shown)
            replacements |= dict(zip(group.spans, _values(canvas.frame, written), strict=True))
            done += written
            position = group.end
            results.append(result)
            # The next group's noise is its own: the same noise would make similar spans say the same.
            parameters = {**parameters, "seed": (result.seed + 1) % (1 << 64)}
        whole = done + self.text[position:]
        return EditResult(
            **fields_of(_together(results), text=whole), replacements=tuple(replacements[span] for span in self.spans)
        )


@dataclass(frozen=True)
class Rewrite:
    """An edit of a whole text that is checked and compiled; its work may begin any number of times."""

    engine: "Engine"
    request: Request

    def work(self, on_step: OnStep | None = None, record: "Recorders | None" = None) -> Work[EditResult]:
        """Write the text afresh, which the chunks' texts add up to; on_step and record as in ``Engine.stream``."""
        return self._rewritten(self.engine.begin(self.request, on_step, record))

    def _rewritten(self, generation: Generation) -> Work[EditResult]:
        return EditResult(**fields_of((yield from generation.work)))


def fill(
    engine: "Engine",
    prefix: str,
    suffix: str,
    *,
    prompt: "Prompt | None" = None,
    hole: Hole | None = None,
    max_tokens: int | None = None,
    **parameters: Any,
) -> Fill:
    """To write what stands between ``prefix`` and ``suffix``, and return all three.

    prompt: what comes before the prefix, such as chat messages that say what is wanted. hole: what may stand there,
    any text by default. max_tokens: of the middle; by default what one canvas holds beside the suffix's beginning,
    or as many as the hole needs.
    A suffix that does not fit half a canvas is shown as far as it does. Other parameters, and errors, as in
    ``Engine.request``; without a prefix and a prompt, where no token begins a text, it is a RequestError.
    """
    _refuse(parameters, ("constraint", "thinking", "draft", "stop"))
    check_text("prefix", prefix)
    check_text("suffix", suffix)
    context = context_before(engine, prompt, prefix)
    shown = _beginning(engine, suffix, engine.model.config.canvas_length // 2)
    constraint = Template("{middle}" + escaped(shown), {"middle": _check_hole(hole)})
    fewest = engine.fewest_tokens(constraint)
    if max_tokens is None:
        room = _one_canvas(engine, context, fewest)
    else:
        beside = engine.fewest_tokens(Template(escaped(shown)))
        room = check_whole("max_tokens", max_tokens, 1) + beside
        if room < fewest:
            raise RequestError(
                f"max_tokens {max_tokens} is too small for the hole: its shortest text takes {fewest - beside} tokens"
            )
    request = engine.request(context, constraint=constraint, max_tokens=room, **parameters)
    return Fill(engine, request, prefix, suffix, shown)


def edit(
    engine: "Engine",
    text: str,
    spans: Sequence[tuple[int, int]] | None = None,
    *,
    instruction: str | None = None,
    strength: float = 0.8,
    hole: Hole | Sequence[Hole] | None = None,
    **parameters: Any,
) -> Edit | Rewrite:
    """To rewrite the ``spans`` of ``text``, (start, end) in characters, or with an instruction alone all of it.

    Everything outside of the spans stays as it is, byte for byte. instruction: said to the model as a user's message,
    along with the text. strength: the share of the old text that is noise in the starting canvas, 0 to 1; the rest the
    model may keep or not. hole: what may stand in the spans, one for all or one each; any text by default. Other
    parameters, and errors, as in ``Engine.request``.
    """
    _refuse(parameters, ("thinking", "draft", "stop", *(("constraint",) if spans is not None else ())))
    check_text("text", text)
    if instruction is not None:
        check_text("instruction", instruction)
    if check_number("strength", strength, 0) > 1:
        raise RequestError(f"strength {strength} must be from 0 (start from the old text) to 1 (start from noise)")
    if spans is None:
        if instruction is None:
            raise RequestError("edit needs spans that are to change, an instruction, or both")
        if hole is not None:
            raise RequestError("hole says what may stand in spans, and there are none; use constraint for the whole")
        asked = engine.tokenize(engine.question(instruction, text))
        draft = _draft(engine, [(text, 1 - strength)])
        return Rewrite(engine, engine.request(asked, draft=draft, **parameters))
    ordered = _check_spans(text, spans)
    holes = dict(zip(ordered, _holes(hole, len(ordered)), strict=True))
    prompt = None if instruction is None else engine.question(instruction, text)
    groups = _groups(engine, text, ordered)
    borders = [*(group.start for group in groups[1:]), len(text)]
    canvases = [_canvas(engine, text, *places, holes, strength) for places in zip(groups, borders, strict=True)]
    for canvas in canvases:
        # What cannot be written is to be refused before anything is.
        fewest, given = canvas.compiled.fewest_tokens, parameters.get("max_tokens")
        if isinstance(given, int) and given < fewest:
            raise RequestError(
                f"max_tokens {given} is too small for a canvas whose shortest text takes {fewest} tokens"
            )
    first = _request(engine, prompt, text[: groups[0].start], canvases[0], parameters)
    return Edit(engine, prompt, text, ordered, groups, canvases, parameters, first)


def _request(
    engine: "Engine", prompt: "Prompt | None", before: str, canvas: _Canvas, parameters: Mapping[str, Any]
) -> Request:
    """What is asked for on one canvas of an edit, after the text ``before`` it."""
    context = context_before(engine, prompt, before)
    settings = {"max_tokens": _one_canvas(engine, context, canvas.compiled.fewest_tokens), **parameters}
    return engine.request(context, constraint=canvas.constraint, draft=canvas.draft, **settings)


def _before(work: Work[Result], ending: str) -> Work[Result]:
    """``work`` on a text that has a fixed ``ending``; the chunks' texts are what surely comes before that."""
    text, given = "", 0
    try:
        while True:
            moved = next(work)
            if isinstance(moved, Chunk):
                text += moved.text
                safe = len(text) - overlap(text, ending)
                moved, given = replace(moved, text=text[given:safe]), max(given, safe)
            yield moved
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        work.close()


def _without(text: str, ending: str) -> str:
    """What comes before the fixed ``ending`` of a produced text."""
    if not text.endswith(ending):
        raise ConstraintError("the text was not produced from this template: it does not end as it must")
    return text[: len(text) - len(ending)]


def _values(frame: Template, written: str) -> list[str]:
    """What stands in the holes of a frame that begins and ends with one."""
    # Reading a frame takes time that grows with its length, and of a single hole there is nothing to be read.
    return [written] if len(frame.holes) == 1 else list(frame.values(written).values())


def _canvas(
    engine: "Engine", text: str, group: _Group, following: int, holes: Mapping[tuple[int, int], Hole], strength: float
) -> _Canvas:
    """What is asked of the canvas of one group of spans, which shows some of the text up to the ``following`` one."""
    shown = _beginning(engine, text[group.end : following], engine.model.config.canvas_length // 4)
    frame, old, described, position = "", [], {}, group.start
    for number, (start, end) in enumerate(group.spans):
        frame += escaped(text[position:start]) + f"{{span{number}}}"
        old += [(text[position:start], 1.0), (text[start:end], 1 - strength)]
        described[f"span{number}"] = holes[start, end]
        position = end
    constraint = Template(frame + escaped(shown), described)
    draft = _draft(engine, [*old, (shown, 1.0)])
    return _Canvas(Template(frame, described), shown, constraint, engine.compile(constraint), draft)


def _groups(engine: "Engine", text: str, spans: Sequence[tuple[int, int]]) -> list[_Group]:
    """Neighbouring spans together, as long as they and what is between them take no more than half a canvas."""
    most = engine.model.config.canvas_length // 2
    groups: list[_Group] = []
    for span in spans:
        if groups and len(engine.tokenizer.encode_text(text[groups[-1].start : span[1]])) <= most:
            groups[-1].spans.append(span)
        else:
            groups.append(_Group([span]))
    return groups


def _draft(engine: "Engine", pieces: Sequence[tuple[str, float]]) -> Draft:
    """Text, piece by piece, each with the probability that one of its tokens survives, and an end token after it."""
    tokens, survival = [], []
    for text, probability in pieces:
        own = engine.tokenizer.encode_text(text)
        tokens += own
        survival += [probability] * len(own)
    ends = engine.model.defaults.end_token_ids[:1]
    return Draft(
        torch.tensor([*tokens, *ends], dtype=torch.int64),
        torch.tensor([*survival, *(min(survival, default=1.0) for _ in ends)], dtype=torch.float64),
    )


def context_before(engine: "Engine", prompt: "Prompt | None", before: str, check: Check | None = None) -> list[int]:
    """The tokens of a prompt, and of the text before a canvas; RequestError where there are none, ``check`` as in
    ``Engine.tokenize``."""
    if prompt is not None:
        given = engine.tokenize(prompt, check=check)
        return [*given, *engine.tokenizer.encode_text(before, engine.fits(check))]
    tokens = engine.tokenizer.encode(before, engine.fits(check))
    if not tokens:
        raise RequestError("there is nothing before the canvas: give a prefix of one character or more, or a prompt")
    return tokens


def _beginning(engine: "Engine", text: str, tokens: int) -> str:
    """As much of the beginning of ``text`` as so many tokens hold."""
    encoded = engine.tokenizer.encode_text(text)
    if len(encoded) <= tokens:
        return text
    for count in range(tokens, 0, -1):
        shown = engine.tokenizer.decode_all(encoded[:count])
        if text.startswith(shown):
            return shown
    # Not even the first character fits; or the tokenizer changes the text, and does not say where a token ends.
    return "" if engine.tokenizer.decode_all(encoded) == text else text[:tokens]


def _holes(hole: Hole | Sequence[Hole] | None, count: int) -> list[Hole]:
    if not isinstance(hole, list | tuple):
        return [_check_hole(hole)] * count
    if len(hole) != count:
        raise RequestError(f"hole has {len(hole)} descriptions for {count} spans; give one for each, or one for all")
    return [_check_hole(one) for one in hole]


def _check_hole(hole: object) -> Hole:
    if hole is not None and not isinstance(hole, Hole):
        raise RequestError(f"hole {hole!r} must be a redraft.Hole(...)")
    return hole or Hole()


def _one_canvas(engine: "Engine", context: Sequence[int], fewest: int) -> int:
    """Tokens that one canvas holds beside an end token, less where the context has no room for them, and in any case
    the ``fewest`` that will do."""
    config = engine.model.config
    held = min(config.canvas_length - 1, config.context_length - len(context))
    return max(1, held, fewest)


def _check_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans, which must be in order."""
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


def _refuse(parameters: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if name in parameters:
            raise RequestError(f"{name} cannot be given here; it follows from what is filled in")


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
        usage=Usage(**{**usage, "time_to_first_token": first.usage.time_to_first_token}),
    )
