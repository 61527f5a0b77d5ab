"""Text written into text: between a prefix and a suffix, or in the place of spans that are to change.

What must stay is part of the constraint, so that it comes back byte for byte; what comes before the canvas is encoded
as context, and so much of what follows as a canvas can show stands on it from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from redraft.constrain.constraint import Template
from redraft.constrain.template import Hole, escaped
from redraft.engine.generation import Generation
from redraft.engine.request import Draft, check_number
from redraft.engine.result import Result, Usage, fields_of
from redraft.engine.work import Work
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.engine.engine import Engine, Prompt


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


def fill(
    engine: "Engine",
    prefix: str,
    suffix: str,
    *,
    prompt: "Prompt | None" = None,
    hole: Hole | None = None,
    max_tokens: int | None = None,
    **parameters: Any,
) -> Work[FillResult]:
    """Write what stands between ``prefix`` and ``suffix``, and return all three.

    prompt: what comes before the prefix, such as chat messages that say what is wanted. hole: what may stand there,
    any text by default. max_tokens: of the middle; by default what one canvas holds beside the suffix's beginning.
    A suffix that does not fit half a canvas is shown as far as it does. Other parameters, and errors, as in
    ``Engine.request``; a prefix and a prompt that are both empty are a RequestError.
    """
    _refuse(parameters, ("constraint", "thinking", "draft", "stop"))
    _check_text("prefix", prefix)
    _check_text("suffix", suffix)
    context = context_before(engine, prompt, prefix)
    shown = _beginning(engine, suffix, engine.model.config.canvas_length // 2)
    constraint = Template("{middle}" + escaped(shown), {"middle": hole or Hole()})
    if max_tokens is None:
        room = engine.model.config.canvas_length - 1
    else:
        room = max_tokens + engine.fewest_tokens(Template(escaped(shown)))
    return _filled(
        engine.stream(context, constraint=constraint, max_tokens=room, **parameters), prefix, suffix, constraint
    )


def _filled(generation: Generation, prefix: str, suffix: str, constraint: Template) -> Work[FillResult]:
    result = yield from generation.work
    middle = constraint.values(result.text)["middle"]
    return FillResult(**fields_of(result, text=prefix + middle + suffix), middle=middle)


def edit(
    engine: "Engine",
    text: str,
    spans: Sequence[tuple[int, int]] | None = None,
    *,
    instruction: str | None = None,
    strength: float = 0.8,
    hole: Hole | Sequence[Hole] | None = None,
    **parameters: Any,
) -> Work[EditResult]:
    """Rewrite the ``spans`` of ``text``, (start, end) in characters, or with an instruction alone all of it.

    Everything outside of the spans stays as it is, byte for byte. instruction: said to the model as a user's message,
    along with the text. strength: the share of the old text that is noise in the starting canvas, 0 to 1; the rest the
    model may keep or not. hole: what may stand in the spans, one for all or one each; any text by default. Other
    parameters, and errors, as in ``Engine.request``.
    """
    _refuse(parameters, ("thinking", "draft", "stop", *(("constraint",) if spans is not None else ())))
    _check_text("text", text)
    if check_number("strength", strength, 0) > 1:
        raise RequestError(f"strength {strength} must be from 0 (start from the old text) to 1 (start from noise)")
    if spans is None:
        if instruction is None:
            raise RequestError("edit needs spans that are to change, an instruction, or both")
        if hole is not None:
            raise RequestError("hole says what may stand in spans, and there are none; use constraint for the whole")
        draft = _draft(engine, [(text, 1 - strength)])
        return _rewritten(engine.stream(engine.question(instruction, text), draft=draft, **parameters))
    ordered = _check_spans(text, spans)
    holes = dict(zip(ordered, _holes(hole, len(ordered)), strict=True))
    prompt = None if instruction is None else engine.question(instruction, text)
    return _edited(engine, prompt, text, ordered, holes, strength, parameters)


def _rewritten(generation: Generation) -> Work[EditResult]:
    return EditResult(**fields_of((yield from generation.work)))


def _edited(
    engine: "Engine",
    prompt: "Prompt | None",
    text: str,
    ordered: Sequence[tuple[int, int]],
    holes: Mapping[tuple[int, int], Hole],
    strength: float,
    parameters: Mapping[str, Any],
) -> Work[EditResult]:
    done, position, results, replacements = "", 0, [], {}
    for group in _groups(engine, text, ordered):
        done += text[position : group.start]
        following = next((start for start, _ in ordered if start >= group.end and start > group.start), len(text))
        result, values = yield from _rewrite(engine, prompt, done, text, group, following, holes, strength, parameters)
        for span, value in zip(group.spans, values, strict=True):
            replacements[span] = value
        done += _put_in(text, group, values)
        position = group.end
        results.append(result)
        # What was drawn for one group is told to the next.
        parameters = {**parameters, "seed": result.seed}
    whole = done + text[position:]
    return EditResult(
        **fields_of(_together(results), text=whole), replacements=tuple(replacements[span] for span in ordered)
    )


def _rewrite(
    engine: "Engine",
    prompt: "Prompt | None",
    done: str,
    text: str,
    group: _Group,
    following: int,
    holes: Mapping[tuple[int, int], Hole],
    strength: float,
    parameters: Mapping[str, Any],
) -> Work[tuple[Result, list[str]]]:
    """Denoise the canvas of one group of spans, after the text ``done``; what stands in each of them."""
    shown = _beginning(engine, text[group.end : following], engine.model.config.canvas_length // 4)
    frame, old, described, position = "", [], {}, group.start
    for number, (start, end) in enumerate(group.spans):
        frame += escaped(text[position:start]) + f"{{span{number}}}"
        old += [(text[position:start], 1.0), (text[start:end], 1 - strength)]
        described[f"span{number}"] = holes[start, end]
        position = end
    constraint = Template(frame + escaped(shown), described)
    old.append((shown, 1.0))
    settings = {"max_tokens": engine.model.config.canvas_length - 1, **parameters}
    generation = engine.stream(
        context_before(engine, prompt, done), constraint=constraint, draft=_draft(engine, old), **settings
    )
    result = yield from generation.work
    values = constraint.values(result.text)
    return result, [values[f"span{number}"] for number in range(len(group.spans))]


def _put_in(text: str, group: _Group, values: Sequence[str]) -> str:
    out, position = "", group.start
    for (start, end), value in zip(group.spans, values, strict=True):
        out += text[position:start] + value
        position = end
    return out


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


def context_before(engine: "Engine", prompt: "Prompt | None", before: str) -> list[int]:
    """The tokens of a prompt, and of the text before a canvas; RequestError where there are none."""
    if prompt is not None:
        return [*engine.tokenize(prompt), *engine.tokenizer.encode_text(before)]
    tokens = engine.tokenizer.encode(before)
    if not tokens:
        raise RequestError("there is nothing before the canvas: give a prefix of one character or more, or a prompt")
    return tokens


def _beginning(engine: "Engine", text: str, tokens: int) -> str:
    """As much of the beginning of ``text`` as so many tokens hold."""
    encoded = engine.tokenizer.encode_text(text)
    if len(encoded) <= tokens:
        return text
    for count in range(tokens, 0, -1):
        shown = engine.tokenizer.decode(encoded[:count])
        if text.startswith(shown):
            return shown
    # The tokenizer changes the text, and does not say where a token ends.
    return text[:tokens]


def _holes(hole: Hole | Sequence[Hole] | None, count: int) -> list[Hole]:
    if hole is None or isinstance(hole, Hole):
        return [hole or Hole()] * count
    if len(hole) != count:
        raise RequestError(f"hole has {len(hole)} descriptions for {count} spans; give one for each, or one for all")
    return list(hole)


def _check_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans, which must be in order."""
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


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name} {text!r} must be a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} has half a character at {error.start}: {error.reason}") from None


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
        log_valid=tuple(value for result in results for value in result.log_valid),
        usage=Usage(**{**usage, "time_to_first_token": first.usage.time_to_first_token}),
    )
