"""The typesafe-sdk client against the server."""

from typing import Any

import pytest
from typesafe_sdk import Choice, Noul, Score, TypeSafeClient

from redraft.api import Engine
from redraft.serve.http.limits import RequestLimits
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, serving

STATE = "I was charged twice. Please help."
QUESTIONS: dict[str, Any] = {
    "billing": Noul(instructions="Is this about billing?"),
    "tone": Choice(instructions="What is the tone?", criteria={"calm": None, "angry": "shouting", "sad": None}),
    "urgency": Score(instructions="How urgent?", criteria=["not at all", "somewhat", {"very": "now"}]),
}


@pytest.fixture(scope="module")
def client(served: Served) -> TypeSafeClient:
    return TypeSafeClient(base_url=served.url, api_key="none", model=NAME)


def test_every_kind_of_question_has_its_answer(client: TypeSafeClient) -> None:
    result = client.system_one(state=STATE, questions=QUESTIONS)
    assert result.model == NAME
    assert result.usage.input_tokens is not None
    assert result.usage.input_tokens > 0
    assert 0 <= result.nouls["billing"].noul <= 1
    tone = result.choices["tone"]
    assert sum(tone.probabilities.values()) == pytest.approx(1)
    assert tone.confidence == max(tone.probabilities.values()) == tone.probabilities[tone.choice]
    urgency = result.scores["urgency"]
    assert sum(urgency.probabilities.values()) == pytest.approx(1)
    expected = sum(level * probability for level, probability in urgency.probabilities.items())
    assert urgency.score == pytest.approx(expected)
    assert urgency.legend == {0: "not at all", 1: "somewhat", 2: {"very": "now"}}


def test_no_order_changes_an_answer(client: TypeSafeClient) -> None:
    one = client.system_one(state=STATE, questions=QUESTIONS)
    turned = dict(reversed(QUESTIONS.items()))
    turned["tone"] = Choice(instructions="What is the tone?", criteria={"sad": None, "angry": "shouting", "calm": None})
    other = client.system_one(state=STATE, questions=turned)
    assert one.answers == other.answers


def test_questions_that_do_not_fit_one_canvas_take_several(client: TypeSafeClient) -> None:
    many = {f"q{number:02}": Noul(instructions=f"Is it {number}?") for number in range(40)}
    result = client.system_one(state=STATE, questions=many)
    assert set(result.nouls) == set(many)
    raw = result.raw_http_response.json()
    assert raw["usage"]["canvases"] > 1


def test_models_are_listed(client: TypeSafeClient) -> None:
    assert [model.name for model in client.models.list().models] == [NAME]


@pytest.mark.parametrize(
    ("question", "param"),
    [
        ({"type": "noul"}, "questions.a"),
        ({"type": "choice", "criteria": {"only": None}}, "questions.a.choice.criteria"),
        ({"type": "score", "criteria": ["x"] * 11}, "questions.a.score.criteria"),
        ({"type": "box", "instructions": "the dog"}, "questions.a"),
        ({"type": "noul", "instructions": "x", "more": 1}, "questions.a.noul.more"),
    ],
)
def test_what_cannot_be_asked_is_refused(served: Served, question: Any, param: str) -> None:
    answer = served.post("/v1/systemone", {"model": NAME, "state": "s", "questions": {"a": question}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_too_many_questions_are_refused(engine: Engine) -> None:
    with serving(engine, ServerSettings(NAME, limits=RequestLimits(questions=2))) as up:
        questions = {name: {"type": "noul", "instructions": "x"} for name in "abc"}
        answer = up.post("/v1/systemone", {"model": NAME, "state": "s", "questions": questions})
        assert answer.status_code == 422
