"""An edit keeps all outside of its spans byte for byte, and writes into them what holes allow, from the old text on."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft import ConstraintError, Hole, Regex, RequestError, StepEvent
from redraft.api import Engine
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.models.base import ExtractLayout
from redraft.tasks.edit import EditResult, edit
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS
from tests.tasks.conftest import CANVAS, LONG, told, without_end
from tests.thorough import some


def test_without_a_limit_a_hole_that_needs_several_canvases_gets_them(engine: Engine) -> None:
    result = engine.edit("a b", [(0, 1)], hole=Hole(regex="z{40}"), seed=1)
    assert result.text == "z" * 40 + " b"
    assert result.usage.canvases == 3


def test_the_chunks_of_an_edit_add_up_to_what_is_written(engine: Engine) -> None:
    request = edit(engine.runtime, "a b c" + LONG, [(0, 1)], hole=Hole(regex="(in|on){40}"), seed=1)
    texts, result = told(engine, request)
    assert "".join(texts) == result.replacements[0]
    assert sum(map(bool, texts)) > 1
    request = edit(
        engine.runtime, "a b c" + LONG * 9 + "d", [(0, 1), (4, 5), (len(LONG) * 9 + 5, len(LONG) * 9 + 6)], seed=1
    )
    texts, result = told(engine, request)
    one, two, three = result.replacements
    assert "".join(texts) == f"{one} b {two}{three}"


def test_what_an_edit_is_held_to_is_compiled_before_its_task_begins(engine: Engine) -> None:
    engine.runtime.constraints._kept.clear()
    request = edit(engine.runtime, "a" + LONG * 9 + "b", [(0, 1), (len(LONG) * 9 + 1, len(LONG) * 9 + 2)], seed=1)
    engine.runtime.constraints._kept.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.runtime.constraints), "_build", lambda *_: pytest.fail("compiled while others wait"))
        assert told(engine, request)[1].usage.canvases > 1


characters = st.text(st.sampled_from("ab the{}\n\r\té日😀\u0301<>"), max_size=60)


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    text = draw(characters)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=12)))
    spans = list(dict.fromkeys(zip(cuts[::2], cuts[1::2], strict=False)))
    return text, spans


def check_spliced(text: str, spans: list[tuple[int, int]], result: EditResult) -> None:
    """Check that a text has what ``"[xy]{0,3}é?"`` allows in the place of each span, and is else as it was."""
    assert len(result.replacements) == len(spans)
    position, expected = 0, ""
    for (start, end), replacement in zip(spans, result.replacements, strict=True):
        assert re.fullmatch("[xy]{0,3}é?", replacement)
        expected += text[position:start] + replacement
        position = end
    assert result.text == expected + text[position:]


@settings(max_examples=some(60), deadline=None)
@given(edit=edits(), seed=st.integers(0, 1000), strength=st.sampled_from([0.0, 0.5, 1.0]))
def test_everything_outside_of_the_spans_stays(
    engine: Engine, edit: tuple[str, list[tuple[int, int]]], seed: int, strength: float
) -> None:
    """Random texts and spans: adjacent, empty, at both ends; one canvas or several."""
    text, spans = edit
    model_of(engine).script = random_logits(seed)
    hole = Hole(regex="[xy]{0,3}é?")
    result = engine.edit(text, spans, hole=hole, seed=seed, strength=strength, temperature=2.0)
    check_spliced(text, spans, result)


def test_many_spans_far_apart_take_several_canvases_and_each_sees_what_was_written_before(engine: Engine) -> None:
    model_of(engine).script = random_logits(3)
    engine.runtime.pool.forget()
    model_of(engine).encoded.clear()
    text = "".join(f"{LONG}<{number}>" for number in range(6))
    spans = [(at, at + 1) for at in (text.index(f"<{number}>") + 1 for number in range(6))]
    steps: list[StepEvent] = []
    result = engine.edit(text, spans, hole=Hole(regex="[A-Z]{2}"), seed=5, on_step=steps.append)
    assert re.fullmatch("".join(re.escape(LONG) + "<[A-Z]{2}>" for _ in range(6)), result.text)
    assert result.usage.canvases == 6
    assert len(result.log_valid) == 6
    assert result.usage.denoising_steps == len(steps)
    assert result.usage.completion_tokens == len(result.token_ids)
    last = model_of(engine).encoded[-1]
    written = result.text[: result.text.rindex("<") + 1]
    assert engine.tokenizer.encode(written)[-len(last) :] == last, "the last canvas follows all that was written before"
    again = engine.edit(text, spans, hole=Hole(regex="[A-Z]{2}"), seed=5)
    assert again.text == result.text


def test_each_span_has_its_own_hole(engine: Engine) -> None:
    result = engine.edit("a b c", [(0, 1), (4, 5)], hole=[Hole(choices=("x",)), Hole(choices=("y",))], seed=1)
    assert result.text == "x b y"
    assert result.replacements == ("x", "y")


def test_the_text_after_a_canvas_is_shown_only_up_to_the_next_span(engine: Engine) -> None:
    """An empty span right before a long one that stands on the next canvas: the old text of that is no demand."""
    text = "ab" + "xyz" * 10
    result = engine.edit(text, [(2, 2), (2, len(text))], hole=Hole(regex="[0-9]"), seed=1)
    assert re.fullmatch("ab[0-9]{2}", result.text)
    assert len(result.token_ids) == 2


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.8, 1.0])
def test_strength_is_the_share_of_the_old_text_that_starts_as_noise(tmp_path: Path, strength: float) -> None:
    """Of 400 tokens in the span; those around it are there for certain. Noise hits the old token once in V."""
    engine = scripted_engine(tmp_path, random_logits(0), canvas_length=1024)
    inner = "xq" * 200
    first: list[Tensor] = []
    engine.edit(
        f"ab{inner}cd", [(2, 402)], strength=strength, seed=11, on_step=lambda event: first.append(event.tokens_in)
    )
    old = torch.tensor(engine.tokenizer.encode_text(inner + "cd"))
    same = first[0][: len(old)] == old
    assert same[400:].all()
    survives = 1 - strength + strength / VOCAB_SIZE
    share, deviation = same[:400].double().mean().item(), (survives * (1 - survives) / 400) ** 0.5
    assert abs(share - survives) <= 5 * deviation + 1e-9


@pytest.mark.parametrize(("layout", "content"), [("text", "shout\n\na b c"), ("slots", "a b c\n\nshout")])
@pytest.mark.parametrize("spans", [None, [(2, 3)]], ids=["whole", "spans"])
def test_an_instruction_stands_where_the_checkpoint_learned_to_look_for_it(
    engine: Engine,
    layout: ExtractLayout,
    content: str,
    spans: list[tuple[int, int]] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(engine)
    monkeypatch.setattr(model, "defaults", replace(model.defaults, extract_layout=layout))
    request = edit(engine.runtime, "a b c", spans, instruction="shout").request
    asked = engine.runtime.tokenize([{"role": "user", "content": content}])
    assert [*request.prompt[: len(asked)]] == [*asked]


def test_an_instruction_alone_starts_from_the_whole_text_and_may_change_all_of_it(engine: Engine) -> None:
    model_of(engine).script = without_end(random_logits(2))
    first: list[Tensor] = []
    result = engine.edit(
        "abxy",
        instruction="shout",
        strength=0,
        max_tokens=20,
        seed=3,
        on_step=lambda event: first.append(event.tokens_in),
    )
    old = [*engine.tokenizer.encode_text("abxy"), END_TOKEN_IDS[0]]
    noise = (PositionRandom(3, 0, INITIAL, CANVAS).noise * VOCAB_SIZE).long().tolist()
    assert first[0].tolist() == [*old, *noise[len(old) :]]
    assert result.replacements == ()
    assert result.text == engine.tokenizer.decode(result.token_ids)
    assert result.usage.prompt_tokens == len(engine.runtime.tokenize(engine.runtime.question("shout", "abxy")))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.edit(3, [(0, 1)]), "text 3 must be a text"),
        (lambda e: e.edit("abc"), "edit needs spans that are to change, an instruction, or both"),
        (lambda e: e.edit("abc", 3), "spans 3 must be a list"),
        (lambda e: e.edit("abc", []), "spans must be one span or more"),
        (lambda e: e.edit("abc", [(0, 4)]), r"span 0 is \(0, 4\).*within the 3 characters"),
        (lambda e: e.edit("abc", [(2, 3), (0, 1)]), r"span 1 is \(0, 1\).*in order"),
        (lambda e: e.edit("abc", [(0, 2), (1, 3)]), "span 1 is"),
        (lambda e: e.edit("abc", [(1, 1), (1, 1)]), "each once"),
        (lambda e: e.edit("abc", [(0, 1.0)]), "span 0 is"),
        (lambda e: e.edit("abc", [5]), "span 0 is 5"),
        (lambda e: e.edit("abc", [(0, 1)], strength=2), "strength 2 must be from 0"),
        (lambda e: e.edit("abc", [(0, 1)], strength="x"), "strength 'x' must be a finite number"),
        (lambda e: e.edit("abc", [(0, 1)], hole=[Hole(), Hole()]), "hole has 2 descriptions for 1 span;"),
        (lambda e: e.edit("abc", [(0, 1)], hole=5), "hole 5 must be a redraft.Hole"),
        (lambda e: e.edit("abc", instruction="x", hole=Hole()), "hole says what may stand in spans"),
        (lambda e: e.edit("abc", instruction=5), "instruction 5 must be a text"),
        (lambda e: e.edit("abc", [(0, 1)], constraint=Regex("a")), "constraint cannot be given here"),
        (lambda e: edit(e.runtime, "abc", [(0, 1)], draft=None), "draft cannot be given here"),
    ],
)
def test_what_cannot_be_honoured_is_named_before_any_work(engine: Engine, call, words: str) -> None:
    engine.runtime.pool.forget()
    model_of(engine).encoded.clear()
    with pytest.raises(RequestError, match=words):
        call(engine)
    assert model_of(engine).encoded == []


def test_a_hole_that_nothing_fills_is_refused_before_the_first_canvas_also_in_the_last_group(engine: Engine) -> None:
    text = "a" + LONG * 3 + "b"
    model_of(engine).encoded.clear()
    with pytest.raises(ConstraintError, match=r"span0.*3,1"):
        engine.edit(text, [(0, 1), (len(text) - 1, len(text))], hole=[Hole(), Hole(regex="x{3,1}")])
    with pytest.raises(RequestError, match=r"max_tokens 5 is too small.*takes 7 tokens"):
        engine.edit(
            text, [(0, 1), (len(text) - 1, len(text))], hole=[Hole(type="boolean"), Hole(regex="z{7}")], max_tokens=5
        )
    assert model_of(engine).encoded == []
