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
    likeliest = max(tone.probabilities.values())
    assert tone.probabilities[tone.choice] == likeliest
    # Above chance: 0 where all three are alike, 1 where one is certain.
    assert tone.confidence == pytest.approx((likeliest - 1 / 3) / (1 - 1 / 3))
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


def test_neither_ids_nor_other_questions_change_an_answer(client: TypeSafeClient, alone: Engine) -> None:
    together = client.system_one(state=STATE, questions=QUESTIONS)
    for name, question in QUESTIONS.items():
        apart = client.system_one(state=STATE, questions={f"another {name}": question})
        assert apart.answers[f"another {name}"] == together.answers[name]
    # Each is what the model says to that question alone, on a canvas that holds its options and little more.
    prompt = alone.runtime.question(
        "Read what is given, and answer the question about it with one of its options.",
        f"{STATE}\n\nIs this about billing?\n- yes\n- no",
    )
    expected = alone.choose(prompt, ["yes", "no"], seed=0, canvas_length=8)
    assert together.nouls["billing"].noul == expected.probabilities["yes"]
    raw = together.raw_http_response.json()
    assert raw["usage"]["x_canvases"] == 3
    assert set(raw) == {"model", "answers", "usage"}


def test_the_clients_own_name_of_a_model_is_known_here_alone(served: Served) -> None:
    body = {"model": "jev-latest", "state": "s", "questions": {"a": {"type": "noul", "instructions": "x"}}}
    answer = served.post("/v1/systemone", {**body, "trace": "unknown fields are taken"})
    assert (answer.status_code, answer.json()["model"]) == (200, NAME)
    chat = {"model": "jev-latest", "messages": [{"role": "user", "content": "hi"}]}
    assert served.post("/v1/chat/completions", chat).status_code == 404
    other = served.post("/v1/systemone", {**body, "model": "other"})
    assert other.status_code == 404
    assert set(other.json()["detail"]) == {"error_type", "message"}


def test_models_are_listed(client: TypeSafeClient) -> None:
    assert [model.name for model in client.models.list().models] == [NAME]


@pytest.mark.parametrize(
    ("question", "place"),
    [
        ({"type": "noul"}, "questions.a"),
        ({"type": "choice", "criteria": {"only": None}}, "questions.a.choice.criteria"),
        ({"type": "score", "criteria": ["x"] * 11}, "questions.a.score.criteria"),
        ({"type": "box", "instructions": "the dog"}, "questions.a"),
        ({"type": "noul", "instructions": "x", "more": 1}, "questions.a.noul.more"),
    ],
)
def test_what_cannot_be_asked_is_refused(served: Served, question: Any, place: str) -> None:
    answer = served.post("/v1/systemone", {"model": NAME, "state": "s", "questions": {"a": question}})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", *place.split(".")]
    assert place in fault["msg"]


def test_too_many_questions_are_refused(engine: Engine) -> None:
    with serving(engine, ServerSettings(NAME, limits=RequestLimits(questions=2))) as up:
        questions = {name: {"type": "noul", "instructions": "x"} for name in "abc"}
        answer = up.post("/v1/systemone", {"model": NAME, "state": "s", "questions": questions})
        assert answer.status_code == 422
