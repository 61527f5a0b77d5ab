"""System One, typed decisions: each question's answer with the probability of every option.

Every question is a prompt of its own, without its id, and has a short canvas of its own; all are computed together.
Options stand in the prompt in the order of their names. So neither other questions, nor an id, nor an order in which a
client sent something can change an answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import ConfigDict, Discriminator, Field
from starlette.responses import Response

from redraft.serve.answers import Answers
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.prepare import prompt_tokens
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.fields import Body
from redraft.tasks.choose import ChooseRequest, ChooseResult, choose

router = APIRouter()
_FIELDS = {"prompt": "state", "the answers": "questions", "constraint": "questions"}
# The same request gets the same answer.
_SEED = 0
_INSTRUCTION = "Read what is given, and answer the question about it with one of its options."
# The name of the model that clients of this format send unless told otherwise.
_ALIAS = "jev-latest"
# Canvases are a multiple of so many positions long: few lengths, so that questions of about one size are alike.
_ROUND = 8

Content = str | dict[str, Any] | list[Any]
_Text = Content | None


class NoulCriteria(Body):
    """The meanings of yes and no."""

    true: _Text = None
    false: _Text = None


class NoulQuestion(Body):
    """A question that is answered by yes or no."""

    type: Literal["noul"]
    instructions: _Text = None
    criteria: NoulCriteria | None = None


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
    """The body of a request for decisions. By this format's rules unknown fields at the top are taken, and unread."""

    model_config = ConfigDict(extra="ignore")

    model: str
    state: Content
    questions: Annotated[dict[str, Question], Field(min_length=1)]


@dataclass(frozen=True)
class _PlainQuestion:
    """A question in plain text, and the options as they stand on the canvas."""

    question: NoulQuestion | ChoiceQuestion | ScoreQuestion
    text: str
    options: tuple[str, ...]


@router.post("/v1/systemone")
async def system_one(body: SystemOneBody, http: HttpRequest) -> Response:
    """Decide all questions, each on a canvas of its own, in as few forwards as hold them."""
    here = serving(http, None if body.model == _ALIAS else body.model)
    here.note_prompt(http, body.state)
    here.limits.check_questions(len(body.questions))
    questions = {name: _in_plain_text(name, question) for name, question in body.questions.items()}

    def check() -> list[ChooseRequest]:
        return [_choose(here, body.state, one) for one in questions.values()]

    requests = await here.check(check, _FIELDS)
    answers = Answers(here, requests, client_of(http))
    try:
        results = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    decided = dict(zip(questions, results, strict=True))
    return Json(
        {
            "model": here.settings.model,
            "answers": {name: _answer(questions[name], result) for name, result in decided.items()},
            "usage": {
                "input_tokens": sum(result.usage.prompt_tokens for result in results),
                "output_tokens": 0,
                "x_cached_tokens": sum(result.usage.cached_prompt_tokens for result in results),
                "x_canvases": sum(result.usage.canvases for result in results),
                "x_denoising_steps": sum(result.usage.denoising_steps for result in results),
            },
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
            return _PlainQuestion(question, _described(instructions, ("yes", "no"), meanings), ("yes", "no"))
        case ChoiceQuestion(criteria=options):
            if not all(option.strip() for option in options):
                raise bad_request(f"questions.{name}: an option is empty", f"questions.{name}.criteria")
            ordered = tuple(sorted(options))
            return _PlainQuestion(question, _described(instructions, ordered, options), ordered)
        case ScoreQuestion(criteria=levels):
            digits = tuple(str(level) for level in range(len(levels)))
            meanings = dict(zip(digits, levels, strict=True))
            return _PlainQuestion(question, _described(instructions, digits, meanings), digits)


def _described(instructions: str, options: Sequence[str], meanings: Mapping[str, _Text]) -> str:
    lines = [instructions] if instructions else []
    for option in options:
        meaning = meanings.get(option)
        lines.append(f"- {option}" if meaning is None else f"- {option}: {_plain(meaning)}")
    return "\n".join(lines)


def _plain(content: Content) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, sort_keys=True)


def _choose(here: Serving, state: Content, plain: _PlainQuestion) -> ChooseRequest:
    # The state comes first: it is the prefix that questions about the same thing share.
    prompt = here.runtime.question(_INSTRUCTION, f"{_plain(state)}\n\n{plain.text}")
    tokens = prompt_tokens(here, prompt, "state")
    # A slot has its own length.
    in_slots = here.runtime.model.defaults.extract_layout == "slots"
    length = None if in_slots else _canvas_length(here, plain.options)
    return choose(here.runtime, tokens, plain.options, seed=_SEED, canvas_length=length, record=here.settings.record)


def _canvas_length(here: Serving, options: Sequence[str]) -> int:
    """Return the positions that surely hold every option, and the token that ends the answer."""
    needed = 1 + max(len(here.tokenizer.encode_text(option, literal=True)) for option in options)
    return min(here.runtime.model.config.canvas_length, -(-needed // _ROUND) * _ROUND)


def _answer(plain: _PlainQuestion, result: ChooseResult) -> dict[str, Any]:
    probabilities, sure = result.probabilities, {"x_log_valid": result.log_valid}
    match plain.question:
        case NoulQuestion():
            return {"type": "noul", "noul": probabilities["yes"], **sure}
        case ChoiceQuestion(criteria=options):
            return {
                "type": "choice",
                "choice": result.choice,
                "probabilities": {option: probabilities[option] for option in options},
                "confidence": _confidence(probabilities),
                **sure,
            }
        case ScoreQuestion(criteria=levels):
            return {
                "type": "score",
                "score": sum(int(level) * probability for level, probability in probabilities.items()),
                "legend": {str(level): meaning for level, meaning in enumerate(levels)},
                "probabilities": probabilities,
                "confidence": _confidence(probabilities),
                **sure,
            }


def _confidence(probabilities: Mapping[str, float]) -> float:
    """Return how far the likeliest option is above chance: 0 where all are alike, 1 where it is certain."""
    chance = 1 / len(probabilities)
    # Sums of exponentials may be a hair off.
    return min(1.0, max(0.0, (max(probabilities.values()) - chance) / (1 - chance)))
