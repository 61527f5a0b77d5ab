"""Prompts are those that serving renders; canvases end in end tokens, of which the first is learned in full."""

from dataclasses import replace

import pytest

from redraft.errors import DataError
from redraft.tasks.slots import Slots
from redraft.train.text.encoding import Encoder
from redraft.train.text.records import SchemaValue, parse
from tests.train.text.conftest import several

END = 1


def test_prompts_are_the_chat_templates_and_their_beginning_is_shared(encoder: Encoder) -> None:
    encoded, record = encoder.encode(several()), several()
    for question, raw in zip(encoded.questions, record.questions, strict=True):
        chat = encoder.tokenizer.encode_chat(raw.prompt)  # type: ignore[arg-type]
        # What is pinned before the first slot is context, and the canvas begins with the slot.
        led_in = [] if isinstance(raw.answer, str | SchemaValue) else encoder.tokenizer.encode_text(raw.answer[0].text)
        assert list(question.prompt) == chat + led_in
        assert question.canvases[0].free[0] == (not isinstance(raw.answer, SchemaValue))
    beginning = {question.prompt[: encoded.shared] for question in encoded.questions}
    assert len(beginning) == 1
    assert len({question.prompt[: encoded.shared + 1] for question in encoded.questions}) > 1
    assert "the name and the value" in encoder.tokenizer.decode_all(beginning.pop())


def test_a_text_fills_canvases_and_ends(encoder: Encoder) -> None:
    text = "the value of the name is true"
    tokens = encoder.tokenizer.encode_text(text)
    short = replace(encoder, canvas_length=8)
    (question,) = short.encode(parse({"prompt": "a", "response": text, "weight": 2}, "x")).questions
    filled = [token for canvas in question.canvases for token in canvas.tokens]
    weights = [weight for canvas in question.canvases for weight in canvas.weights]
    count = len(tokens)
    assert len(filled) % 8 == 0
    assert filled == tokens + [END] * (len(filled) - count)
    assert weights == [2.0] * (count + 1) + [pytest.approx(0.3)] * (len(filled) - count - 1)
    assert question.prompt == tuple(encoder.tokenizer.encode("a"))


def test_an_answer_that_fills_its_canvas_ends_on_the_next(encoder: Encoder) -> None:
    text = "name" * 8
    tokens = encoder.tokenizer.encode_text(text)
    exact = replace(encoder, canvas_length=len(tokens))
    (question,) = exact.encode(parse({"prompt": "a", "response": text}, "x")).questions
    assert [set(canvas.tokens) == {END} for canvas in question.canvases] == [False, True]


def test_a_value_lies_on_the_canvas_that_slots_make_for_serving(encoder: Encoder) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "ok": {"type": "boolean"}}}
    value = {"name": "the a", "ok": True}
    raw = {"context": "c", "questions": [{"ask": "q", "schema": schema, "value": value}]}
    (canvas,) = encoder.encode(parse(raw, "x")).questions[0].canvases
    own = Slots.of(schema, encoder.tokenizer, END).canvas(value)
    assert (canvas.tokens, canvas.free) == (own.tokens, own.free)
    assert [weight > 0 for weight in canvas.weights] == list(own.free)
    # The values and an end each.
    assert sum(weight == 1 for weight in canvas.weights) == sum(
        len(encoder.tokenizer.encode_text(text)) + 1 for text in (" the a", " true")
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"answer": "x<eos>y"}, "spells the special token '<eos>'"),
        ({"canvas": [{"slot": "name", "width": 1}]}, "takes 1 token, and its slot holds 0"),
        ({"schema": {"type": "object", "properties": {"n": {"type": "integer"}}}, "value": {"n": "x"}}, "/n"),
        ({"schema": {"type": "string"}, "value": ""}, "the outermost value must be an object"),
        ({"answer": "word " * 600}, "and the model reads 512"),
    ],
)
def test_what_cannot_be_encoded_is_named_by_where_it_stands(encoder: Encoder, answer: dict, words: str) -> None:
    record = parse({"context": "c", "questions": [{"ask": "q", **answer}]}, "data.jsonl:9")
    with pytest.raises(DataError) as error:
        encoder.encode(record)
    assert str(error.value).startswith("data.jsonl:9: ")
    assert words in str(error.value)


def test_slots_are_told_apart_by_what_their_value_is(encoder: Encoder) -> None:
    """By which a training is judged: nothing, a class of the schema, text of the prompt, text that it has not."""
    nothing = {"type": ["string", "null"]}
    properties = {
        "said": {"type": "string"},
        "other": {"type": "string"},
        "number": {"type": "integer"},
        "yes": {"type": "boolean"},
        "one": {"enum": ["name", "value"]},
        "none": nothing,
        "more": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    }
    value = {"said": "the a", "other": "b", "number": 7, "yes": True, "one": "name", "none": None, "more": ["the a"]}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    raw = {"context": "here the a is", "questions": [{"ask": "?", "schema": schema, "value": value}]}
    (canvas,) = encoder.encode(parse(raw, "x")).questions[0].canvases
    assert canvas.kinds == ("copied", "rewritten", "rewritten", "class", "class", "absent", "copied", "absent")
