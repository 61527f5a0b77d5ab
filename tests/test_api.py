"""What a request may rely on: its seed, its limits, its end, its cost, and errors before any work."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from redraft import ConfidenceThreshold, GenerationError, Regex, ReproducesCanvas, RequestError, StepEvent
from redraft.api import Engine
from redraft.engine.request import generate
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import load
from redraft.models.base import Span
from tests.random_checkpoint import END_TOKEN_IDS, random_checkpoint

# Confident enough to accept and change, never converging: every canvas takes all its steps.
RESTLESS = {"max_denoising_steps": 4, "t_max": 0.4, "t_min": 0.2}
PROMPT = list(range(20, 50))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), generation=RESTLESS)


@pytest.fixture
def engine(folder: Path) -> Engine:
    return endless(load(folder))


def endless(engine: Engine) -> Engine:
    """Random models emit end tokens at random; without them, lengths are what the request says."""
    engine.model.defaults = replace(engine.model.defaults, end_token_ids=())
    return engine


def small_blocks(folder: Path, block: int) -> Engine:
    """With chunks of as many tokens, so that torch shares the same as the kernels."""
    plain = load(folder)
    return endless(Engine(plain.model, plain.tokenizer, prefill_chunk=block, kv_block=block))


def commit_counter(engine: Engine) -> list[int]:
    """How many tokens are encoded together from now on, alone or with a canvas's first step."""
    lengths: list[int] = []
    forward = engine.model.forward

    def counted(spans: Sequence[Span]) -> list[torch.Tensor | None]:
        lengths.extend(span.rows for span in spans if span.mode == "encode")
        return forward(spans)

    engine.model.forward = counted  # type: ignore[method-assign]
    return lengths


def test_a_seed_gives_the_same_tokens_alone_after_others_and_with_its_prompt_cached(folder: Path) -> None:
    alone = small_blocks(folder, 8).generate(PROMPT, max_tokens=30, seed=7)
    busy = small_blocks(folder, 8)
    busy.generate([16, 17, 18], max_tokens=50, seed=1)
    after_others = busy.generate(PROMPT, max_tokens=30, seed=7)
    busy.generate(PROMPT, max_tokens=8, seed=2)
    cached = busy.generate(PROMPT, max_tokens=30, seed=7)
    assert alone.token_ids == after_others.token_ids == cached.token_ids
    assert after_others.usage.cached_prompt_tokens == 0
    assert cached.usage.cached_prompt_tokens == 24, "three whole blocks of 8 of the 30 prompt tokens"


def test_a_prompt_that_shares_a_beginning_reuses_whole_blocks_of_it_bit_for_bit(folder: Path) -> None:
    other = [*PROMPT[:17], 60, 61, 62]
    fresh: list[StepEvent] = []
    warm: list[StepEvent] = []
    small_blocks(folder, 4).generate(other, max_tokens=20, seed=3, on_step=fresh.append)
    engine = small_blocks(folder, 4)
    engine.generate(PROMPT, max_tokens=8, seed=9)
    result = engine.generate(other, max_tokens=20, seed=3, on_step=warm.append)
    assert result.usage.cached_prompt_tokens == 16
    assert all(torch.equal(a.entropy, b.entropy) for a, b in zip(fresh, warm, strict=True))


def test_a_prompt_whose_window_was_left_behind_is_found_again(folder: Path) -> None:
    """Sliding layers no longer read it after a long answer, and the pool keeps it all the same."""
    engine = small_blocks(folder, 8)
    expected = engine.generate(PROMPT, max_tokens=100, seed=7).token_ids
    again = engine.generate(PROMPT, max_tokens=100, seed=7)
    assert again.usage.cached_prompt_tokens == 24
    assert again.token_ids == expected


@pytest.mark.parametrize("chunk", [1, 3, 8, 256])
def test_another_chunk_size_gives_the_same_tokens(folder: Path, chunk: int) -> None:
    """In float32 on this model; between chunk sizes only rounding differs."""
    expected = endless(load(folder)).generate(PROMPT, max_tokens=24, seed=5).token_ids
    assert endless(load(folder, prefill_chunk=chunk)).generate(PROMPT, max_tokens=24, seed=5).token_ids == expected


def test_different_seeds_differ_and_a_random_seed_is_named(engine: Engine) -> None:
    results = [engine.generate(PROMPT, max_tokens=16, seed=seed).token_ids for seed in range(5)]
    assert len(set(results)) == 5
    drawn = engine.generate(PROMPT, max_tokens=16)
    assert engine.generate(PROMPT, max_tokens=16, seed=drawn.seed).token_ids == drawn.token_ids


def test_two_generations_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    expected = [engine.generate(PROMPT, max_tokens=24, seed=seed).token_ids for seed in (1, 2)]
    one, other = (engine.stream(PROMPT, max_tokens=24, seed=seed) for seed in (1, 2))
    next(one), next(other), next(one)
    assert [one.result().token_ids, other.result().token_ids] == expected


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 23])
def test_exactly_max_tokens_are_generated(engine: Engine, count: int) -> None:
    """Also where that ends within a canvas of 8, which is denoised whole: pads do not fill up a short answer."""
    lengths: list[int] = []
    result = engine.generate(
        PROMPT, max_tokens=count, seed=1, on_step=lambda event: lengths.append(len(event.tokens_in))
    )
    assert len(result.token_ids) == result.usage.completion_tokens == count
    assert result.finish_reason == "length"
    assert set(lengths) == {8}
    assert result.usage.canvases == -(-count // 8)


def test_a_shorter_answer_is_the_beginning_of_a_longer_one(engine: Engine) -> None:
    long = engine.generate(PROMPT, max_tokens=40, seed=2).token_ids
    assert engine.generate(PROMPT, max_tokens=13, seed=2).token_ids == long[:13]


def test_without_a_limit_the_answer_fills_the_context(tmp_path: Path) -> None:
    """A checkpoint's max_new_tokens of 256 must not cut it; the last canvas is as long as what is left."""
    folder = random_checkpoint(
        tmp_path, generation={**RESTLESS, "max_new_tokens": 5}, context_length=50, canvas_length=8
    )
    result = endless(load(folder)).generate(PROMPT, seed=1)
    assert len(PROMPT) + len(result.token_ids) == 50
    assert result.finish_reason == "length"


def test_every_canvas_but_the_last_is_committed_and_handed_out_before(engine: Engine) -> None:
    commits = commit_counter(engine)
    generation = engine.stream(PROMPT, max_tokens=24, seed=1)
    assert commits == []
    next(generation)
    assert commits == [30], "the first canvas is out before its own commit"
    result = generation.result()
    assert commits == [30, 8, 8], "three canvases, no commit after the last"
    assert result.usage.canvases == 3


def test_the_answer_ends_before_the_first_end_token(folder: Path) -> None:
    engine = load(folder)
    unlimited = endless(load(folder))
    reasons = Counter[str]()
    for seed in range(12):
        result = engine.generate(PROMPT, max_tokens=30, seed=seed)
        reasons[result.finish_reason] += 1
        assert not set(result.token_ids) & set(END_TOKEN_IDS)
        raw = unlimited.generate(PROMPT, max_tokens=30, seed=seed).token_ids
        ends = [i for i, token in enumerate(raw) if token in END_TOKEN_IDS]
        if ends and result.finish_reason == "stop":
            assert result.token_ids == raw[: ends[0]]
        else:
            assert len(result.token_ids) == 30 or ends
    assert reasons["stop"], reasons


def stop_word(engine: Engine, at: int) -> str:
    """The text that stands across the border of a canvas: its last token, a space, and the next one."""
    tokens = engine.generate(PROMPT, max_tokens=24, seed=1).token_ids
    return engine.tokenizer.decode(tokens[at : at + 2])


@pytest.mark.parametrize("at", [3, 7, 15])
def test_stop_strings_end_the_answer_also_across_a_canvas_border(engine: Engine, at: int) -> None:
    stop = stop_word(engine, at)
    full = engine.generate(PROMPT, max_tokens=24, seed=1).text
    generation = engine.stream(PROMPT, max_tokens=24, seed=1, stop=stop)
    pieces = [chunk.text for chunk in generation]
    result = generation.result()
    assert result.text == full[: full.index(stop)] == "".join(pieces), "no part of it leaks into the stream"
    assert result.finish_reason == "stop"
    assert result.usage.canvases == (at + 1) // 8 + 1


def test_temperature_zero_samples_the_argmax_and_other_temperatures_scale_the_schedule(engine: Engine) -> None:
    def events(temperature: float) -> list[StepEvent]:
        seen: list[StepEvent] = []
        engine.generate(PROMPT, max_tokens=8, seed=1, temperature=temperature, on_step=seen.append)
        return seen

    assert all(torch.equal(e.sample, e.argmax) for e in events(0))
    normal, hot = events(1.0), events(2.5)
    assert [e.temperature for e in hot] == pytest.approx([2.5 * e.temperature for e in normal])
    assert [e.temperature for e in normal] == pytest.approx([0.4, 0.35, 0.3, 0.25])
    assert hot[0].entropy.mean() > normal[0].entropy.mean()


def test_entropy_bound_canvas_length_and_step_limit_are_the_requests_own(engine: Engine) -> None:
    seen: list[StepEvent] = []
    result = engine.generate(
        PROMPT, max_tokens=9, seed=1, entropy_bound=1000, canvas_length=5, max_denoising_steps=3, on_step=seen.append
    )
    assert [(event.step, event.steps) for event in seen] == [(step, 3) for step in (1, 2, 3)] * 2
    assert all(event.accepted.all() and len(event.accepted) == 5 for event in seen)
    assert result.usage.denoising_steps == 6


def test_an_unconverged_canvas_is_flagged(engine: Engine) -> None:
    result = engine.generate(PROMPT, max_tokens=16, seed=1)
    assert result.unconverged_canvases == (0, 1)
    assert not result.converged
    engine.model.defaults = replace(engine.model.defaults, stability_threshold=0, confidence_threshold=100.0)
    sure = engine.generate(PROMPT, max_tokens=16, seed=1)
    assert sure.converged
    assert sure.usage.denoising_steps == 2


def test_usage_says_what_the_answer_cost(engine: Engine) -> None:
    usage = engine.generate(PROMPT, max_tokens=20, seed=1).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.canvases, usage.denoising_steps) == (30, 20, 3, 12)
    assert 0 < usage.time_to_first_token < usage.seconds
    assert usage.tokens_per_step == 20 / 12


@pytest.mark.parametrize("damaged", ["embed_tokens.weight", "layers.1.experts.down_proj", "norm.weight"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_nan_is_an_error_that_names_canvas_and_step_never_text(
    folder: Path, tmp_path: Path, damaged: str, dtype: Format
) -> None:
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith(f"decoder.{damaged}"))
    weights[name].view(-1)[-1] = float("nan")
    copy = shutil.copytree(folder, tmp_path / "damaged")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    engine = load(copy, dtype=dtype)
    with pytest.raises(GenerationError, match=r"canvas 0, step \d"):
        engine.generate([63, *PROMPT], max_tokens=16, seed=1)


def test_an_engine_works_on_after_an_error(engine: Engine) -> None:
    expected = engine.generate(PROMPT, max_tokens=8, seed=1).token_ids

    def fail(event: StepEvent) -> None:
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        engine.generate(PROMPT, max_tokens=8, seed=1, on_step=fail)
    assert engine.generate(PROMPT, max_tokens=8, seed=1).token_ids == expected


def test_text_chat_and_token_ids_are_prompts(engine: Engine) -> None:
    text = engine.generate("w20 w21", max_tokens=8, seed=1)
    assert text.usage.prompt_tokens == 3, "the tokenizer adds <bos>"
    assert text.token_ids == engine.generate([2, 20, 21], max_tokens=8, seed=1).token_ids
    ids: Any = torch.tensor([2, 20, 21])
    assert text.token_ids == engine.generate(ids, max_tokens=8, seed=1).token_ids
    chat = engine.generate([{"role": "user", "content": "w20 w21"}], max_tokens=8, seed=1)
    rendered = "<bos><|turn>user\nw20 w21<turn|>\n<|turn>model\n"
    assert chat.usage.prompt_tokens == len(engine.tokenizer.encode_text(rendered))


BAD_REQUESTS: list[tuple[object, dict[str, object], str]] = [
    ("", {}, "prompt is empty"),
    ([], {}, "prompt is empty"),
    ([20, 64], {}, "token 1 is 64.*0 to 63"),
    ([20, -1], {}, "token 1 is -1"),
    ([20, 15], {}, "images are not supported"),
    ([20] * 512, {}, "shorten the prompt to 511"),
    ([20], {"max_tokens": 0}, "max_tokens 0.*1 or more"),
    ([20], {"max_tokens": 10**9}, "at most 511 would fit"),
    ([20], {"max_tokens": 2.5}, "max_tokens 2.5"),
    ([20], {"seed": -1}, "seed -1"),
    ([20], {"seed": 2**64}, "seed 18446744073709551616"),
    ([20], {"temperature": -0.1}, "temperature -0.1"),
    ([20], {"temperature": float("nan")}, "temperature nan"),
    ([20], {"max_denoising_steps": 0}, "max_denoising_steps 0"),
    ([20], {"entropy_bound": -1}, "entropy_bound -1"),
    ([20], {"canvas_length": 9}, "canvas_length 9.*1 to 8"),
    ([20], {"stop": ""}, "stop ''"),
    ([20], {"stop": ["a"] * 17}, "17 strings; at most 16"),
]


@pytest.mark.parametrize(("prompt", "parameters", "message"), BAD_REQUESTS)
def test_what_cannot_be_honoured_is_refused_before_any_work(
    engine: Engine, prompt: object, parameters: dict[str, object], message: str
) -> None:
    commits = commit_counter(engine)
    with pytest.raises(RequestError, match=message):
        engine.stream(prompt, **parameters)  # type: ignore[arg-type]
    assert commits == []


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "the prompt is None"),
        ({"role": "user", "content": "w20"}, "the prompt is one mapping; give .* a list of chat messages"),
        (7, "the prompt is of type int"),
        ("w20 \ud800", "half a character at 4"),
        ([{"role": "user", "content": "\udcff"}], "half a character"),
    ],
)
def test_what_is_no_prompt_is_named(engine: Engine, prompt: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        engine.generate(prompt)


def test_seconds_that_a_listener_takes_are_no_cost(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the listener moves."""
    now = [0.0]
    monkeypatch.setattr("redraft.engine.generation.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("redraft.engine.task.perf_counter", lambda: now[0])

    def draw(event: StepEvent) -> None:
        now[0] += 1.0

    usage = engine.generate(PROMPT, max_tokens=20, seed=1, on_step=draw).usage
    assert now[0] == usage.denoising_steps > 0
    assert usage.seconds == usage.time_to_first_token == 0.0


def test_steps_count_up_from_one_and_say_how_many_are_left(engine: Engine) -> None:
    events: list[StepEvent] = []
    engine.generate(PROMPT, max_tokens=4, seed=1, on_step=events.append)
    assert [(event.step, event.remaining) for event in events] == [(1, 3), (2, 2), (3, 1), (4, 0)]


def test_an_unknown_parameter_is_named(engine: Engine) -> None:
    """By Python, where a verb's parameters are written out; and by the check that all of them come to."""
    verbs = {
        engine.generate: (PROMPT,),
        engine.stream: (PROMPT,),
        engine.request: (PROMPT,),
        engine.generate_many: ([PROMPT],),
        engine.fill: ("a", "b"),
        engine.edit: ("a", [(0, 1)]),
        engine.choose: (PROMPT, ["a", "b"]),
        engine.extract: ("a", {"type": "integer"}),
    }
    for verb, given in verbs.items():
        with pytest.raises(TypeError, match="unexpected keyword argument 'top_a'"):
            verb(*given, top_a=0.9)
    with pytest.raises(RequestError, match=r"'top_a'; known are mode, max_tokens, seed, temperature.*on_step"):
        generate(engine.runtime, PROMPT, top_a=0.9)


def test_the_other_rules_of_acceptance_and_stopping_can_be_chosen(engine: Engine) -> None:
    """A step accepts what is likely enough, and a canvas ends when the model reproduces what it saw."""
    seen: list[StepEvent] = []
    engine.generate(
        PROMPT,
        max_tokens=8,
        seed=1,
        max_denoising_steps=30,
        acceptance=ConfidenceThreshold(0.6),
        stopping=ReproducesCanvas(confidence_threshold=100.0),
        on_step=seen.append,
    )
    for event in seen:
        assert event.finished == torch.equal(event.argmax, event.tokens_in)
        # The likeliest token's probability p bounds the entropy from above when it is near one, and from below always.
        assert event.accepted[event.entropy < 0.3].all()
        assert not event.accepted[event.entropy > 3.0].any() or event.accepted.sum() == 1
    with pytest.raises(RequestError, match="exclude each other"):
        engine.generate(PROMPT, entropy_bound=0.1, acceptance=ConfidenceThreshold())


def test_log_probabilities_are_those_of_the_committed_tokens_at_their_last_step(engine: Engine) -> None:
    plain = engine.generate(PROMPT, max_tokens=20, seed=3)
    assert plain.logprobs == ()
    generation = engine.stream(PROMPT, max_tokens=20, seed=3, top_logprobs=2)
    chunks = list(generation)
    result = generation.result()
    assert result.token_ids == plain.token_ids, "looking changes nothing"
    assert [one.token for one in result.logprobs] == list(result.token_ids)
    assert result.logprobs == tuple(one for chunk in chunks for one in chunk.logprobs)
    for one in result.logprobs:
        assert one.top[0][1] == pytest.approx(one.logprob, abs=1e-5)
        assert len(one.top) == 2
        assert 0 >= one.top[0][1] >= one.top[1][1]
    assert all(one.top == () for one in engine.generate(PROMPT, max_tokens=5, seed=3, top_logprobs=0).logprobs)


def test_log_probabilities_that_cannot_be_given_are_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="top_logprobs 21"):
        engine.generate(PROMPT, top_logprobs=21)
    with pytest.raises(RequestError, match="top_logprobs and constraint"):
        engine.generate(PROMPT, constraint=Regex("w1"), top_logprobs=1)
