"""A fill keeps what stands before and after byte for byte, and puts between them what its hole allows."""

import re
from pathlib import Path

import pytest

from redraft import Hole, RequestError
from redraft.api import Engine
from redraft.tasks.fill import fill
from tests.engine.scripted import model_of, random_logits, scripted_engine
from tests.tasks.conftest import CANVAS, LONG, told, without_end

PAIRS = [
    ("def f(x):\r\n    ", "\r\n    return x\r\n"),
    ("Zoë: “", "” 😀\n"),
    ("{a} {{b}} ", " {c}}"),
    ("trailing  ", "  \n\n  "),
    ("the", ""),
    ("the", LONG),
    ("the", LONG * 30),
    (LONG * 20, "x"),
    ("<eos> <|turn>", "<eos>\ufffd</s>"),
    ("", "after nothing"),
    ("a\u0301", "\u0301b"),
]
HOLES = [
    (None, r"(?s:.*)"),
    (Hole(regex="[a-c]{2,5}"), "[a-c]{2,5}"),
    (Hole(type="integer"), "0|-?[1-9][0-9]*"),
    (Hole(choices=("", "x", "é {y}")), r"|x|é \{y\}"),
    (Hole(min_length=3, max_length=4), "(?s:.{3,4})"),
]


@pytest.mark.parametrize(("hole", "pattern"), HOLES, ids=str)
@pytest.mark.parametrize(("prefix", "suffix"), PAIRS, ids=lambda text: repr(text[:12]))
def test_prefix_and_suffix_come_back_byte_for_byte(
    engine: Engine, prefix: str, suffix: str, hole: Hole | None, pattern: str
) -> None:
    """The tokens say the middle and then the suffix, as far as it was shown; the hole's description holds."""
    for seed in range(3):
        model_of(engine).script = random_logits(seed)
        result = engine.fill(prefix, suffix, hole=hole, seed=seed, canvas_length=(5, 11, CANVAS)[seed])
        assert result.text.encode() == prefix.encode() + result.middle.encode() + suffix.encode()
        assert re.fullmatch(pattern, result.middle)
        written = engine.tokenizer.decode(result.token_ids)
        assert written.startswith(result.middle)
        shown = written[len(result.middle) :]
        assert suffix.startswith(shown)
        assert shown == suffix or len(engine.tokenizer.encode_text(shown, literal=True)) > CANVAS // 4


def test_the_prefix_is_context_after_the_prompt(engine: Engine) -> None:
    """A prompt comes before it: token ids, a text or messages, the last through the chat template."""
    messages = [{"role": "user", "content": "fill it"}]
    for prompt in ([2, 20, 21], "some text", messages):
        model_of(engine).encoded.clear()
        engine.runtime.pool.forget()
        result = engine.fill("pre ", " post", prompt=prompt, seed=1)
        expected = [*engine.runtime.tokenize(prompt), *engine.tokenizer.encode_text("pre ")]
        assert [token for tokens in model_of(engine).encoded for token in tokens][: len(expected)] == expected
        assert result.usage.prompt_tokens == len(expected)


@pytest.mark.parametrize("count", [1, 2, 7, 15, 16, 17, 40])
def test_max_tokens_are_those_of_the_middle(engine: Engine, count: int) -> None:
    """However long the suffix: letters that are a token each fit exactly, and one more is refused with their number. A
    model that never ends by itself stays within them."""
    model_of(engine).script = without_end(random_logits(1))
    for suffix in ("", "xyz", LONG):
        text = engine.fill("a", suffix, max_tokens=count, hole=Hole(regex=f"z{{{count}}}"), seed=1).text
        assert text == "a" + "z" * count + suffix
        with pytest.raises(RequestError, match=f"max_tokens {count} is too small.*takes {count + 1} tokens"):
            engine.fill("a", suffix, max_tokens=count, hole=Hole(regex=f"z{{{count + 1},}}"), seed=1)
    result = engine.fill("a", "xyz", max_tokens=count, seed=1)
    assert len(result.token_ids) <= count + 3, "no token of the vocabulary holds two of these letters"
    assert result.text.endswith("xyz")


def test_without_a_limit_a_hole_that_needs_several_canvases_gets_them(engine: Engine) -> None:
    assert engine.fill("a", "b", hole=Hole(regex="z{40}"), seed=1).middle == "z" * 40


@pytest.mark.parametrize("suffix", ["", "inon", "onononin", LONG])
def test_the_chunks_of_a_fill_add_up_to_the_middle_whatever_the_suffix_looks_like(engine: Engine, suffix: str) -> None:
    for seed in range(3):
        request = fill(engine.runtime, "a", suffix, max_tokens=60, hole=Hole(regex="(in|on){40,50}"), seed=seed)
        texts, result = told(engine, request)
        assert len(texts) == result.usage.canvases > 1
        assert "".join(texts) == result.middle
        assert sum(map(bool, texts)) > 1, "text goes out before the end"
        again, same = told(engine, request)
        assert (again, same.text) == (texts, result.text), "it can begin again"


def test_a_hole_of_no_tokens_is_possible_and_by_default_the_middle_fits_one_canvas(engine: Engine) -> None:
    model_of(engine).script = random_logits(0)
    assert engine.fill("a", "b", hole=Hole(choices=("",)), seed=0).text == "ab"
    model_of(engine).script = without_end(random_logits(0))
    result = engine.fill("a", LONG * 9, seed=0)
    assert result.usage.canvases == 1
    assert result.middle


def test_little_room_in_the_context_is_enough_for_a_default_fill(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, random_logits(0), canvas_length=CANVAS, context_length=40)
    prefix = "x" * 30
    assert engine.fill(prefix, "y", seed=0).text.startswith(prefix)
    tiny = scripted_engine(tmp_path, random_logits(0), canvas_length=1)
    assert tiny.fill("x", "😀", seed=0).text.endswith("😀")
    assert scripted_engine(tmp_path, random_logits(0), canvas_length=2).fill("x", "😀", seed=0).text.endswith("😀")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.fill(3, "b"), "prefix 3 must be a text"),
        (lambda e: e.fill("a", None), "suffix None must be a text"),
        (lambda e: e.fill("a", "\ud800"), "suffix has half a character at 0"),
        (lambda e: e.fill("a", "b", hole="[a-z]"), "hole '.*' must be a redraft.Hole"),
        (lambda e: e.fill("a", "b", max_tokens="3"), "max_tokens '3' must be a whole number"),
        (lambda e: e.fill("a", "b", max_tokens=0), "max_tokens 0 is out of range"),
        (lambda e: e.fill("a", "b", hole=Hole(regex="(")), "hole {middle}.*never closed"),
        (lambda e: fill(e.runtime, "a", "b", stop="x"), "stop cannot be given here"),
        (lambda e: fill(e.runtime, "a", "b", constraint=None), "constraint cannot be given here"),
        (lambda e: fill(e.runtime, "a", "b", top_a=1), "unknown parameter 'top_a'"),
        (lambda e: fill(e.runtime, "a", "b", min_tokens=2), "min_tokens and a constraint exclude each other"),
        (lambda e: e.fill("", "b", prompt=""), "the prompt is empty"),
    ],
)
def test_what_cannot_be_honoured_is_named_before_any_work(engine: Engine, call, words: str) -> None:
    engine.runtime.pool.forget()
    model_of(engine).encoded.clear()
    with pytest.raises(RequestError, match=words):
        call(engine)
    assert model_of(engine).encoded == []
