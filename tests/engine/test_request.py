"""Every parameter is honoured or refused by name, before any work."""

import math

import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.engine import request as checks
from redraft.errors import RequestError
from tests.random_checkpoint import random_checkpoint

CONTEXT, CANVAS = 64, 8
PROMPT = [2, 20, 21]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("model")
    generation = {"max_denoising_steps": 2}
    return redraft.load(random_checkpoint(folder, context_length=CONTEXT, canvas_length=CANVAS, generation=generation))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_tokens": 0}, "max_tokens 0 is out of range; it must be 1 or more"),
        ({"max_tokens": 2.0}, "max_tokens 2.0 must be a whole number"),
        ({"max_tokens": True}, "max_tokens True must be a whole number"),
        ({"max_tokens": CONTEXT - 2}, "max_tokens 62 does not fit.* at most 61 would fit"),
        ({"seed": -1}, r"seed -1 is out of range; it must be from 0 to 18446744073709551615"),
        ({"seed": 1 << 64}, "seed 18446744073709551616 is out of range"),
        ({"seed": "7"}, "seed '7' must be a whole number"),
        ({"temperature": -0.1}, "temperature -0.1 must be a finite number, 0 or more"),
        ({"temperature": math.nan}, "temperature nan must be a finite number"),
        ({"temperature": math.inf}, "temperature inf must be a finite number"),
        ({"temperature": "hot"}, "temperature 'hot' must be a finite number"),
        ({"temperature": True}, "temperature True must be a finite number"),
        ({"entropy_bound": -1}, "entropy_bound -1 must be a finite number, 0 or more"),
        ({"max_denoising_steps": 0}, "max_denoising_steps 0 is out of range; it must be 1 or more"),
        ({"canvas_length": 0}, "canvas_length 0 is out of range; it must be from 1 to 8"),
        ({"canvas_length": CANVAS + 1}, "canvas_length 9 is out of range; it must be from 1 to 8"),
        ({"stop": ""}, "stop '' must be strings of at least one character"),
        ({"stop": ["a", ""]}, "stop .* must be strings of at least one character"),
        ({"stop": ["a", 3]}, "stop .* must be strings of at least one character"),
        ({"stop": ["a"] * 17}, "stop has 17 strings; at most 16"),
        pytest.param({"stop": 3}, "stop 3"),
        ({"stop": "a\ud800"}, "stop has half a character at 1"),
        ({"best_of": 0}, "best_of 0 is out of range; it must be 1 or more"),
        ({"best_of": 2.0}, "best_of 2.0 must be a whole number"),
        ({"best_of": True}, "best_of True must be a whole number"),
        ({"verify_rounds": -1}, "verify_rounds -1 is out of range"),
        ({"verify_rounds": "3"}, "verify_rounds '3' must be a whole number"),
        ({"verifier": 3}, "verifier 3 must be a function"),
        ({"thinking": "yes"}, "thinking 'yes' must be True or False"),
        ({"thinking": 1}, "thinking 1 must be True or False"),
        ({"thinking": True}, "this checkpoint cannot think"),
        ({"acceptance": 0.5}, "acceptance 0.5 must be a rule, such as redraft.ConfidenceThreshold"),
        ({"acceptance": redraft.EntropyBound}, "acceptance .* must be a rule"),
        ({"acceptance": redraft.ReproducesCanvas()}, "acceptance .* must be a rule"),
        ({"stopping": "never"}, "stopping 'never' must be a rule, such as redraft.ReproducesCanvas"),
        ({"stopping": redraft.EntropyBound()}, "stopping .* must be a rule"),
        ({"acceptance": redraft.EntropyBound(), "entropy_bound": 1}, "exclude each other"),
        ({"draft": "text"}, "draft 'text' must be a redraft.Draft"),
        ({"draft": redraft.Draft(torch.tensor([64]), torch.tensor([0.5]))}, "draft has a token outside of the vocab"),
        ({"draft": redraft.Draft(torch.tensor([1, 2]), torch.tensor([0.5]))}, "draft must have tokens"),
        ({"draft": redraft.Draft(torch.tensor([1.0]), torch.tensor([0.5]))}, "draft must have tokens"),
        ({"draft": redraft.Draft(torch.tensor([1]), torch.tensor([1.5]))}, "survival from 0 to 1"),
        ({"draft": redraft.Draft(torch.tensor([1]), torch.tensor([math.nan]))}, "survival from 0 to 1"),
        ({"draft": redraft.Draft([1], [0.5])}, "draft must have tokens"),  # type: ignore[arg-type]
        ({"constraint": "[a-z]"}, "constraint .* must be a JSONSchema, Regex, Choice or Template"),
        ({"on_step": 5}, "on_step 5 must be a function"),
        pytest.param(
            {"temperature": 10**400},
            "temperature",
        ),
        pytest.param(
            {"temperature": 1e-40},
            "temperature 1e-40",
        ),
    ],
)
def test_parameter_is_refused_by_name(engine, parameters, words):
    with pytest.raises(RequestError, match=words):
        engine.generate(PROMPT, **{"max_tokens": 4, **parameters})


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        (torch.tensor([], dtype=torch.long), "the prompt is empty"),
        ([2, 64], "prompt token 1 is 64; ids must be whole numbers from 0 to 63"),
        ([-1], "prompt token 0 is -1"),
        ([2, 2.0], "prompt token 1 is 2.0"),
        ([True], "prompt token 0 is True"),
        ([2, 20, 15], "prompt token 2 .15. stands for an image"),
        ("w20 <boi> w21", "prompt token 2 .13. stands for an image"),
        ([20] * CONTEXT, "the prompt has 64 tokens and the context holds 64; shorten the prompt to 63"),
        (torch.tensor([[2, 20]]), "prompt token 0 is"),
    ],
)
def test_prompt_is_refused(engine, prompt, words):
    with pytest.raises(RequestError, match=words):
        engine.generate(prompt)


def test_nothing_runs_before_the_checks(engine):
    steps: list[redraft.StepEvent] = []
    with pytest.raises(RequestError):
        engine.stream(PROMPT, max_tokens=CONTEXT, on_step=steps.append)
    assert not steps


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_tokens": CONTEXT - 3},
        {"max_tokens": 1, "seed": 0},
        {"seed": (1 << 64) - 1},
        {"temperature": 0, "entropy_bound": 0, "max_denoising_steps": 1, "canvas_length": 1},
        {"stop": "w"},
        {"stop": ["a"] * 16},
    ],
)
def test_the_bounds_themselves_are_allowed(engine, parameters):
    result = engine.generate(PROMPT, **{"max_tokens": 8, **parameters})
    assert len(result.token_ids) <= {"max_tokens": 8, **parameters}["max_tokens"]


def test_no_max_tokens_is_what_the_context_has_left():
    assert checks.check_length(None, 60, 64) == 4


def test_a_random_seed_is_named_and_repeats_the_answer(engine):
    first = engine.generate(PROMPT, max_tokens=20)
    assert engine.generate(PROMPT, max_tokens=20, seed=first.seed).token_ids == first.token_ids
    assert len({checks.check_seed(None) for _ in range(8)}) > 1


def test_chunks_add_up_to_the_result(engine):
    whole = engine.generate(PROMPT, max_tokens=16, seed=3)
    generation = engine.stream(PROMPT, max_tokens=16, seed=3, stop=whole.text.split()[2])
    chunks = list(generation)
    assert "".join(chunk.text for chunk in chunks) == generation.result().text
    assert sum((chunk.token_ids for chunk in chunks), ()) == generation.result().token_ids
