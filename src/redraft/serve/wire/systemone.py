"""System One, typed decisions: each question's answer with the probability of every option.

Questions and options stand in the prompt, and the answers on the canvas, in an order of their own names: in what order
the client sent them cannot change an answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Field
from starlette.responses import Response

from redraft.engine.runtime import Prompt
from redraft.serve.answers import Answers
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.prepare import prompt_tokens
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.fields import Body
from redraft.tasks.choose import ChooseRequest, Decision, choose

router = APIRouter()
_FIELDS = {"prompt": "state", "the answers": "questions", "constraint": "questions"}
# The same request gets the same answer.
_SEED = 0
_INSTRUCTION = "Read what is given, and answer the questions about it, each on a line of its own."

Content = str | dict[str, Any] | list[Any]
_Text = Content | None


class NoulQuestion(Body):
    """A question that is answered by yes or no."""

    type: Literal["noul"]
    instructions: _Text = None
    criteria: "NoulCriteria | None" = None


class NoulCriteria(Body):
    """The meanings of yes and no."""

    true: _Text = None
    false: _Text = None


class ChoiceQuestion(Body):
    """A choice of one of several options, with the meaning of each."""

    type: Literal["choice"]
    instructions: _Text = None
    criteria: Annotated[dict[str, _Text], Field(min_length=2, max_length=255)]


class ScoreQuestion(Body):
    """A level of a scale, from 0 on."""

    type: Literal["score"]
    instructions: _Text = None
    criteria: Annotated[list[Content], Field(min_length=2, max_length=10)]


Question = Annotated[NoulQuestion | ChoiceQuestion | ScoreQuestion, Discriminator("type")]


class SystemOneBody(Body):
    """The body of a request for decisions."""

    model: str
    state: Content
    questions: Annotated[dict[str, Question], Field(min_length=1)]


@dataclass(frozen=True)
class _PlainQuestion:
    """A question in plain text, and the options as they stand on the canvas."""

    name: str
    question: NoulQuestion | ChoiceQuestion | ScoreQuestion
    text: str
    options: tuple[str, ...]


@router.post("/v1/systemone")
async def system_one(body: SystemOneBody, http: HttpRequest) -> Response:
    """Decide all questions, on as few canvases as hold them."""
    here = serving(http)
    here.check_model(body.model)
    here.note_prompt(http, body.state)
    here.limits.check_questions(len(body.questions))
    questions = [_in_plain_text(name, body.questions[name]) for name in sorted(body.questions)]

    def check() -> tuple[list[list[_PlainQuestion]], list[ChooseRequest]]:
        groups = _groups(here, questions)
        return groups, [_choose(here, body.state, group) for group in groups]

    groups, requests = await here.check(check, _FIELDS)
    answers = Answers(http, requests, client_of(http))
    try:
        results = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    decided = {
        one.name: result.answers[f"q{number}"]
        for group, result in zip(groups, results, strict=True)
        for number, one in enumerate(group)
    }
    by_name = {one.name: one for one in questions}
    return Json(
        {
            "model": here.settings.model,
            "answers": {name: _answer(by_name[name], decided[name]) for name in body.questions},
            "usage": {
                "input_tokens": sum(result.usage.prompt_tokens for result in results),
                "output_tokens": 0,
                "canvases": sum(result.usage.canvases for result in results),
                "denoising_steps": sum(result.usage.denoising_steps for result in results),
            },
            "log_valid": [result.log_valid for result in results],
        }
    )


def _in_plain_text(name: str, question: NoulQuestion | ChoiceQuestion | ScoreQuestion) -> _PlainQuestion:
    instructions = "" if question.instructions is None else _plain(question.instructions)
    match question:
        case NoulQuestion(criteria=criteria):
            described = criteria is not None and (criteria.true is not None or criteria.false is not None)
            if not instructions and not described:
                raise bad_request(
                    f"questions.{name}: a yes/no question needs instructions, or criteria for one of its outcomes",
                    f"questions.{name}",
                )
            meanings = {} if criteria is None else {"yes": criteria.true, "no": criteria.false}
            return _PlainQuestion(
                name, question, _described(name, instructions, ("yes", "no"), meanings), ("yes", "no")
            )
        case ChoiceQuestion(criteria=options):
            if not all(option.strip() for option in options):
                raise bad_request(f"questions.{name}: an option is empty", f"questions.{name}.criteria")
            ordered = tuple(sorted(options))
            return _PlainQuestion(name, question, _described(name, instructions, ordered, options), ordered)
        case ScoreQuestion(criteria=levels):
            digits = tuple(str(level) for level in range(len(levels)))
            meanings = dict(zip(digits, levels, strict=True))
            return _PlainQuestion(name, question, _described(name, instructions, digits, meanings), digits)


def _described(name: str, instructions: str, options: Sequence[str], meanings: Mapping[str, _Text]) -> str:
    lines = [f"{name}: {instructions}" if instructions else name]
    for option in options:
        meaning = meanings.get(option)
        lines.append(f"- {option}" if meaning is None else f"- {option}: {_plain(meaning)}")
    return "\n".join(lines)


def _plain(content: Content) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, sort_keys=True)


def _prompt(here: Serving, state: Content, group: Sequence[_PlainQuestion]) -> Prompt:
    # The state comes first: it is the prefix that requests about the same thing share.
    questions = "\n\n".join(one.text for one in group)
    return here.runtime.question(_INSTRUCTION, f"{_plain(state)}\n\n{questions}")


def _choose(here: Serving, state: Content, group: Sequence[_PlainQuestion]) -> ChooseRequest:
    tokens = prompt_tokens(here, _prompt(here, state, group), "state")
    options = {f"q{number}": one.options for number, one in enumerate(group)}
    return choose(here.runtime, tokens, options, seed=_SEED, record=here.settings.record)


def _groups(here: Serving, questions: Sequence[_PlainQuestion]) -> list[list[_PlainQuestion]]:
    """Group questions in their order, as many on a canvas as surely fit whatever the answers are."""
    room = here.runtime.model.config.canvas_length - 1
    groups: list[list[_PlainQuestion]] = []
    left = 0
    for one in questions:
        longest = max(len(here.tokenizer.encode_text(f"{option}\n", literal=True)) for option in one.options)
        if not groups or longest > left:
            groups.append([])
            left = room
        groups[-1].append(one)
        left -= longest
    return groups


def _answer(plain: _PlainQuestion, decision: Decision) -> dict[str, Any]:
    probabilities = decision.probabilities
    match plain.question:
        case NoulQuestion():
            return {"type": "noul", "noul": probabilities["yes"]}
        case ChoiceQuestion(criteria=options):
            return {
                "type": "choice",
                "choice": decision.choice,
                "probabilities": {option: probabilities[option] for option in options},
                "confidence": decision.confidence,
            }
        case ScoreQuestion(criteria=levels):
            return {
                "type": "score",
                "score": sum(int(level) * probability for level, probability in probabilities.items()),
                "legend": {str(level): meaning for level, meaning in enumerate(levels)},
                "probabilities": probabilities,
                "confidence": decision.confidence,
            }
