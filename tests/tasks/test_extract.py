"""Extraction: valid JSON, its value, and for every leaf a confidence that brute force finds as well."""

import json
import random
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import torch

from redraft import JSONSchema, RequestError, StepEvent
from redraft.api import Engine
from redraft.canvas.random import PositionRandom
from redraft.tasks.extract import _CONFIDENCE, INSTRUCTION, extract
from tests.constrain.random_schemas import RandomSchemas
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS
from tests.thorough import some


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return scripted_engine(tmp_path, random_logits(0), canvas_length=24)


def pointers(value: object, path: str = "") -> set[str]:
    """Of every value that holds no others, by the definition of RFC 6901."""
    if isinstance(value, dict) and value:
        escaped = ((key.replace("~", "~0").replace("/", "~1"), own) for key, own in value.items())
        return set().union(*(pointers(own, f"{path}/{key}") for key, own in escaped))
    if isinstance(value, list) and value:
        return set().union(*(pointers(own, f"{path}/{index}") for index, own in enumerate(value)))
    return {path}


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "q/~": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "none": {"type": "array", "maxItems": 0},
    },
    "required": ["name", "age", "q/~", "none"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("canvas_length", [3, 5, 8, 24])
def test_every_leaf_has_a_confidence_on_one_canvas_and_on_many(engine: Engine, canvas_length: int) -> None:
    for seed in range(3):
        model_of(engine).script = random_logits(seed, scale=(0.0, 3.0, 60.0)[seed % 3])
        result = engine.extract("some text", SCHEMA, seed=seed, canvas_length=canvas_length, max_tokens=80)
        assert result.value == json.loads(result.text)
        jsonschema.validate(result.value, SCHEMA)
        assert set(result.confidence) == pointers(result.value)
        assert all(0 <= probability <= 1 for probability in result.confidence.values())
        again = engine.extract("some text", SCHEMA, seed=seed, canvas_length=canvas_length, max_tokens=80)
        assert again.confidence == result.confidence


def test_random_schemas_are_extracted(engine: Engine) -> None:
    done = 0
    for seed in range(some(14, 5)):
        schema = RandomSchemas(seed).draw()
        model_of(engine).script = random_logits(seed)
        try:
            result = engine.extract(
                "x", schema, seed=seed, max_tokens=60, canvas_length=random.Random(seed).choice([4, 9])
            )
        except RequestError:
            continue
        done += 1
        assert jsonschema.Draft202012Validator(schema).is_valid(result.value)
        assert result.value == json.loads(result.text)
        assert set(result.confidence) == pointers(result.value)
    assert done > some(8)


@pytest.mark.parametrize("schema", [{"enum": ["a", "b", "ab", ""]}, {"type": "integer", "minimum": 0, "maximum": 99}])
def test_a_confidence_is_what_enumerating_all_values_finds(engine: Engine, schema: dict) -> None:
    """The value's positions are noise and all others stay: of all tokens that may stand there, the probability that the
    model gives the value's own, the least of them."""
    vocabulary, compared = engine.runtime.constraints.vocabulary, 0
    spelled = [vocabulary.spell([token]) for token in range(VOCAB_SIZE)]
    valid = {json.dumps(v).encode() for v in schema.get("enum", range(100))}
    for seed in range(some(25, 10)):
        model_of(engine).script = random_logits(seed, scale=1.0)
        result = engine.extract("x", schema, seed=seed, canvas_length=6, max_tokens=30)
        tokens = result.token_ids
        quote = int(result.text[0] == '"')
        own = list(range(quote, len(tokens)))
        if result.usage.canvases > 1 or not 1 <= len(own) <= 2 or (quote and spelled[tokens[0]] != b'"'):
            continue
        compared += 1
        steps: list[torch.Tensor] = []

        def kept(event: StepEvent, steps: list[torch.Tensor] = steps) -> None:
            steps.append(event.argmax)

        engine.generate(
            engine.runtime.question(INSTRUCTION.format(schema=json.dumps(schema)), "x"),
            constraint=JSONSchema(schema),
            seed=seed,
            canvas_length=6,
            max_tokens=30,
            on_step=kept,
        )
        canvas = steps[-1]
        noise = engine.model.corruption.noise.tokens(PositionRandom(seed, _CONFIDENCE, 1, 6).noise)
        seen = canvas.clone()
        seen[own] = noise[own]
        context = result.usage.prompt_tokens
        p = model_of(engine).script(seen, context).double().softmax(-1)
        total, of_own = 0.0, [0.0] * len(own)
        usable = [token for token in range(VOCAB_SIZE) if spelled[token] and token not in END_TOKEN_IDS]
        starts = {text[:count] for text in valid for count in range(len(text) + 1)}
        before = b"".join(spelled[token] for token in tokens[: own[0]])
        firsts = [token for token in usable if before + spelled[token] in starts]
        for combination in product(firsts, usable) if len(own) == 2 else ((token,) for token in firsts):
            if before + b"".join(spelled[token] for token in combination) in valid:
                weight = float(torch.stack([p[at, token] for at, token in zip(own, combination, strict=True)]).prod())
                total += weight
                for index, (at, token) in enumerate(zip(own, combination, strict=True)):
                    of_own[index] += weight * (token == tokens[at])
        assert result.confidence[""] == pytest.approx(min(of_own) / total, rel=1e-3), seed
    assert compared >= 1


def test_the_question_names_the_schema_or_says_the_instruction(engine: Engine) -> None:
    for instruction, shown in ((None, '"maxLength": 6'), ("read {it}", "read {it}")):
        engine.runtime.pool.forget()
        model_of(engine).encoded.clear()
        engine.extract("the text", SCHEMA, instruction=instruction, seed=1, confidence=False)
        prompt = engine.tokenizer.decode(model_of(engine).encoded[0])
        assert shown in prompt
        assert "the text" in prompt


def test_without_confidence_no_step_more_is_taken(engine: Engine) -> None:
    model_of(engine).canvases_seen.clear()
    result = engine.extract("x", SCHEMA, seed=1, confidence=False)
    assert len(model_of(engine).canvases_seen) == result.usage.denoising_steps
    assert result.confidence == {}


def test_of_a_key_that_stands_there_twice_the_last_value_counts(engine: Engine) -> None:
    """Open objects may be written with a key twice; every reader of JSON takes the last."""
    schema = {"type": "object", "additionalProperties": {"type": "boolean"}}
    twice = '{"a":true,"a":false}'
    tokens = [*engine.tokenizer.encode_text(twice), END_TOKEN_IDS[0]]

    def insisting(canvas: torch.Tensor, context: int) -> torch.Tensor:
        out = torch.zeros(len(canvas), VOCAB_SIZE)
        for position, token in enumerate(tokens[: len(canvas)]):
            out[position, token] = 60.0
        return out

    model_of(engine).script = insisting
    found = engine.extract("x", schema, seed=1)
    assert (found.text, found.value) == (twice, {"a": False})
    assert found.confidence == {"/a": pytest.approx(1.0)}


@pytest.mark.parametrize(
    ("text", "schema", "parameters", "words"),
    [
        (5, SCHEMA, {}, "text 5 must be a text"),
        ("x", 5, {}, "a schema must be an object"),
        ("x", {"type": "strin"}, {}, "not 'strin'"),
        ("x", "{", {}, "not JSON"),
        ("x", SCHEMA, {"instruction": 5}, "instruction 5 must be a text"),
        ("x", SCHEMA, {"confidence": "yes"}, "confidence 'yes' must be True or False"),
        ("x", SCHEMA, {"max_tokens": 3}, "max_tokens 3 is too small for the constraint: its shortest text takes"),
    ],
)
def test_what_cannot_be_honoured_is_named_before_any_work(engine: Engine, text, schema, parameters, words) -> None:
    with pytest.raises(RequestError, match=words):
        engine.extract(text, schema, **parameters)
    assert model_of(engine).encoded == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"stop": "a"}, "stop cannot be given to extract"),
        ({"constraint": None}, "constraint cannot be given to extract"),
        ({"thinking": True}, "thinking cannot be given to extract"),
        ({"top_a": 3}, "unknown parameter 'top_a'"),
    ],
)
def test_what_belongs_to_other_verbs_is_refused_by_name(engine: Engine, parameters, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        extract(engine.runtime, "x", SCHEMA, **parameters)
    with pytest.raises(TypeError, match=f"unexpected keyword argument {next(iter(parameters))!r}"):
        engine.extract("x", SCHEMA, **parameters)
    assert model_of(engine).encoded == []
