"""A constrained answer under way: its seed, its turns with others, its thought, and one canvas after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft import JSONSchema, Regex, RequestError, StepEvent
from redraft.api import Engine
from redraft.constrain.constraint import Constraint
from redraft.engine.generation import Generate
from redraft.engine.runtime import advance, run, start
from redraft.engine.task import Progress
from redraft.kernels import inference as chain
from redraft.loading import load
from tests.engine.scripted import VOCAB_SIZE, Logits, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS, LETTERS_SIZE, THOUGHT_IDS, random_checkpoint

PROMPT = list(range(20, 50))
OPENING, CLOSING = THOUGHT_IDS
CONSTRAINTS: list[Constraint] = [
    JSONSchema({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 9}}}),
    Regex("[a-z ]{30,}"),
    Regex("(the |a )*end"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generation = {"max_denoising_steps": 3, "t_max": 0.8, "t_min": 0.4}
    return random_checkpoint(
        tmp_path_factory.mktemp("model"), letters=True, vocab_size=LETTERS_SIZE + 2, generation=generation
    )


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_a_seed_means_the_same_answer_alone_after_others_and_with_its_prompt_cached(folder: Path, constraint) -> None:
    def answer(engine: Engine) -> tuple[int, ...]:
        return engine.generate(PROMPT, constraint=constraint, max_tokens=50, seed=7).token_ids

    alone = answer(load(folder, prefill_chunk=8))
    busy = load(folder, prefill_chunk=8)
    busy.generate([16, 17, 18], max_tokens=20, seed=1, constraint=CONSTRAINTS[0])
    assert answer(busy) == alone
    cached = busy.generate(PROMPT, max_tokens=4, seed=2)
    assert busy.generate(PROMPT, constraint=constraint, max_tokens=50, seed=7).token_ids == alone
    assert cached.seed == 2


def test_generations_that_take_turns_do_not_disturb_each_other(folder: Path) -> None:
    """One forward each in turn, under different constraints and one under none."""
    engine = load(folder)
    asked: list[dict[str, Any]] = [
        {"constraint": one, "seed": seed, "max_tokens": 50} for seed, one in enumerate([*CONSTRAINTS, None])
    ]
    expected = [engine.generate(PROMPT, **one) for one in asked]
    tasks = [Progress(Generate(engine.runtime, engine.request(PROMPT, **one)).task()) for one in asked]
    for task in tasks:
        start(task)
    while waiting := [task for task in tasks if not task.ended]:
        for task in waiting:
            advance(engine.runtime, [task])
    for task, alone in zip(tasks, expected, strict=True):
        assert task.value.token_ids == alone.token_ids
        assert task.value.log_valid == alone.log_valid


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_compiled_inference_and_its_reference_give_the_same_answer(folder: Path, constraint, monkeypatch) -> None:
    """Where no two tokens are equally likely but for rounding, which a seed's uniforms make almost sure."""
    engine = load(folder)
    answers = []
    for _ in range(2):
        steps: list[StepEvent] = []
        for seed in range(4):
            engine.generate(PROMPT, constraint=constraint, max_tokens=40, seed=seed, on_step=steps.append)
        answers.append(steps)
        monkeypatch.setattr(chain, "native", lambda: None)
    assert len(answers[0]) == len(answers[1])
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one.argmax, other.argmax)
        assert torch.equal(one.sample, other.sample)
        torch.testing.assert_close(one.entropy, other.entropy)


def test_while_the_budget_does_not_bind_it_changes_nothing(tmp_path: Path) -> None:
    """A text that is over long before: the same tokens for every budget that leaves each canvas free to end anywhere.
    The distance to the end is 1 at most in every state of this language."""
    engine = scripted_engine(tmp_path, random_logits(3), canvas_length=8)
    for seed in range(5):
        answers = [
            engine.generate(PROMPT, constraint=Regex("[a-z]{1,12}"), seed=seed, max_tokens=budget, canvas_length=4)
            for budget in (40, 60, 300)
        ]
        assert len({answer.token_ids for answer in answers}) == 1


def test_the_first_canvas_is_out_before_the_second_is_begun_and_chunks_add_up(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, random_logits(3), canvas_length=5)
    generation = engine.stream(PROMPT, constraint=Regex("[a-z]{23}"), seed=1)
    chunks = list(generation)
    result = generation.result()
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert sum((chunk.token_ids for chunk in chunks), ()) == result.token_ids
    request = engine.request(PROMPT, constraint=Regex("[a-z]{23}"), seed=1)
    answer = run(engine.runtime, Generate(engine.runtime, request).answer())
    assert len(answer.canvases) == result.usage.canvases == len(chunks) == 3
    assert answer.result.token_ids == result.token_ids


# Thinking.


def thinking_model(thought: list[int], answer: list[int]) -> Logits:
    """A model that is sure of a thought, its markers and an answer, wherever canvases begin."""
    script = [OPENING, *thought, CLOSING, *answer, END_TOKEN_IDS[0]]

    def logits(canvas: Tensor, context: int) -> Tensor:
        out = torch.zeros(len(canvas), VOCAB_SIZE)
        for position in range(len(canvas)):
            at = context - len(PROMPT) + position
            out[position, script[at] if at < len(script) else END_TOKEN_IDS[0]] = 40.0
        return out

    return logits


@pytest.mark.parametrize("canvas_length", [1, 2, 3, 5, 8, 13, 40])
@pytest.mark.parametrize("constraint", [None, Regex("[0-9]+")], ids=str)
def test_a_thought_is_split_from_the_answer_wherever_canvases_meet(
    tmp_path: Path, canvas_length: int, constraint
) -> None:
    engine = scripted_engine(tmp_path, random_logits(0))
    thought = engine.tokenizer.encode_text("hm, the é 😀 is")
    answer = engine.tokenizer.encode_text("2026")
    model_of(engine).script = thinking_model(thought, answer)
    generation = engine.stream(
        PROMPT, thinking=True, constraint=constraint, canvas_length=canvas_length, max_tokens=60, seed=1
    )
    chunks = list(generation)
    result = generation.result()
    assert result.thought == "hm, the é 😀 is" == "".join(chunk.thought for chunk in chunks)
    assert result.text == "2026" == "".join(chunk.text for chunk in chunks)
    assert list(result.token_ids) == [OPENING, *thought, CLOSING, *answer]
    assert result.usage.completion_tokens == len(thought) + len(answer) + 2
    assert result.finish_reason == "stop"


def test_a_thought_within_an_answer_is_no_text_of_it(tmp_path: Path) -> None:
    """Whether or not it begins with the first token of a canvas: canvas borders do not change what is text."""
    engine = scripted_engine(tmp_path, random_logits(0))
    tokens = [*engine.tokenizer.encode_text("xyz"), OPENING, *engine.tokenizer.encode_text("q"), CLOSING]

    def logits(canvas: Tensor, context: int) -> Tensor:
        out = torch.zeros(len(canvas), VOCAB_SIZE)
        for position in range(len(canvas)):
            at = context - len(PROMPT) + position
            out[position, tokens[at] if at < len(tokens) else END_TOKEN_IDS[0]] = 40.0
        return out

    model_of(engine).script = logits
    results = [engine.generate(PROMPT, thinking=True, canvas_length=n, max_tokens=30, seed=1) for n in (2, 3, 8)]
    assert {(one.thought, one.text, one.token_ids) for one in results} == {("q", "xyz", tuple(tokens))}
    plain = [engine.generate(PROMPT, canvas_length=n, max_tokens=30, seed=1) for n in (2, 3, 8)]
    assert {(one.thought, one.text, one.token_ids) for one in plain} == {("q", "xyz", tuple(tokens))}, "nor unasked"


def test_the_empty_thought_of_a_model_that_was_not_asked_to_think_is_no_text(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, random_logits(0))
    name, answer = engine.tokenizer.encode_text("thought\n"), engine.tokenizer.encode_text("2026")
    model_of(engine).script = thinking_model(name, answer)
    generation = engine.stream(PROMPT, canvas_length=5, max_tokens=60, seed=1)
    assert "".join(chunk.text for chunk in generation) == generation.result().text == "2026"
    assert list(generation.result().token_ids) == [OPENING, *name, CLOSING, *answer]


def test_a_chat_prompt_ends_with_an_empty_thought_unless_one_is_asked_for(tmp_path: Path) -> None:
    """So does that of a decision: what is chosen from begins where the model's answer does."""
    engine = scripted_engine(tmp_path, random_logits(0))
    messages = [{"role": "user", "content": "hi"}]
    block = engine.tokenizer.encode_text("<|channel>thought\n<channel|>")
    rendered = engine.tokenizer.encode_chat(messages)
    assert list(engine.request(messages).prompt) == [*rendered, *block]
    assert engine.request(messages, thinking=True).prompt == tuple(engine.tokenizer.encode_chat(messages, True))
    assert list(engine.request("hi").prompt) == engine.tokenizer.encode("hi"), "raw text stays as it is"
    assert engine.request(rendered).prompt == tuple(rendered), "so do token ids"
    engine.choose(messages, ["yes", "no"])
    assert model_of(engine).encoded[-1][-len(block) :] == block


def test_without_the_markers_a_chat_prompt_stays_as_it_is(tmp_path: Path) -> None:
    engine = load(random_checkpoint(tmp_path, canvas_length=4))
    messages = [{"role": "user", "content": "w20"}]
    assert list(engine.request(messages).prompt) == engine.tokenizer.encode_chat(messages)


def test_without_a_thought_there_is_an_empty_one_and_without_asking_there_is_none(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, random_logits(0))
    assert engine.generate(PROMPT, constraint=Regex("a"), max_tokens=1, thinking=True, seed=1).thought == ""
    assert engine.generate(PROMPT, constraint=Regex("a"), max_tokens=1, seed=1).thought is None


def test_a_tokenizer_without_markers_cannot_think(tmp_path: Path) -> None:
    engine = load(random_checkpoint(tmp_path, canvas_length=4))
    with pytest.raises(RequestError, match=r"cannot think: its tokenizer has no '<\|channel>' and '<channel\|>'"):
        engine.generate(PROMPT, thinking=True, max_tokens=4)
