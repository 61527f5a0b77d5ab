"""Compiled constraints: made once, told apart by all that matters, and as short as brute force finds."""

import math
import weakref
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from redraft import Choice, ConstraintError, JSONSchema, Regex, RequestError
from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.limits import TokenLimits
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.compiler import CompiledConstraint, Compiler, ThoughtMarkers
from redraft.constrain.constraint import Constraint
from tests.engine.scripted import model_of, random_logits, scripted_engine

TOKENS = [b"a", b"b", b"ab", b"ba", b"aab", b"c", b"\xc3", b"\xa9", b"", b"", b""]
OPENING, CLOSING, END = 8, 9, 10


def compiler() -> Compiler:
    return Compiler(lambda: Vocabulary.from_tokens(TOKENS))


def min_tokens(text: bytes) -> float:
    """The fewest tokens that spell a text, by dynamic programming; infinite if none do."""
    found = [0.0]
    for end in range(1, len(text) + 1):
        before = (found[end - len(t)] for t in TOKENS if t and end >= len(t) and text[:end].endswith(t))
        found.append(min(before, default=math.inf) + 1)
    return found[-1]


@pytest.mark.parametrize("seed", range(30))
def test_the_fewest_tokens_are_those_of_the_shortest_spelling_of_any_text(seed: int) -> None:
    words = ["".join(letters) for count in range(1, 7) for letters in product("abcé", repeat=count)]
    options = words[seed * 97 :: 1013 + seed][:5]
    expected = min(min_tokens(option.encode()) for option in options)
    assert compiler().compile(Choice(options), [END]).min_tokens == expected


def test_a_constraint_is_compiled_once_for_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one = compiler()
    made: list[CompiledConstraint] = []
    original = CompiledConstraint.of

    def noted(*made_of: Any) -> CompiledConstraint:
        made.append(original(*made_of))
        return made[-1]

    monkeypatch.setattr(CompiledConstraint, "of", noted)
    markers = ThoughtMarkers(OPENING, CLOSING)
    asked: list[tuple[Constraint, list[int], tuple[str, ...], ThoughtMarkers | None]] = [
        (Regex("a+"), [END], (), None),
        (Regex("a+b?"), [END], (), None),
        (Regex("a+"), [END, 5], (), None),
        (Regex("a+"), [END], ("aaa",), None),
        (Regex("a+"), [END], (), markers),
        (Choice(["a"]), [END], (), None),
    ]
    first = [one.compile(*arguments) for arguments in asked]
    assert len(made) == len(asked)
    assert [one.compile(*arguments) for arguments in asked] == first
    assert one.compile(Regex("a+"), [END]) is first[0]
    assert len(made) == len(asked)


@pytest.mark.parametrize("thought", [None, ThoughtMarkers(7, 8)])
def test_counts_are_lowered_until_the_tokens_fit_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, thought: ThoughtMarkers | None
) -> None:
    """The automaton of bytes fits, and with so many edges only a part of it over tokens."""
    limited = partial(token_automaton.build, limits=TokenLimits(edges=4000))
    monkeypatch.setattr(token_automaton, "build", limited)
    constraint = Regex("a{3,1500}")
    with pytest.raises(ConstraintError, match="edges between states, of at most 4000"):
        limited(
            byte_automaton.build(constraint.expression), Vocabulary.from_tokens([b"a" * n for n in range(1, 7)]), [0]
        )
    compiler = Compiler(lambda: Vocabulary.from_tokens([b"", *(b"a" * n for n in range(1, 7)), b"", b""]))
    compiled = compiler.compile(constraint, [0], thought=thought)
    assert compiled.lowered
    assert "too large to be kept to exactly" in caplog.text
    caplog.clear()
    assert not compiler.compile(Regex("a{3,200}"), [0], thought=thought).lowered
    assert not caplog.text
    if thought is None:
        assert compiled.automaton.states == 513
    assert compiled.min_tokens == 1


def test_only_the_latest_and_those_in_use_are_kept() -> None:
    one = compiler()
    in_use = one.compile(Regex("b"), [END])
    first = weakref.ref(one.compile(Regex("a{1}"), [END]))
    for count in range(2, 33):
        one.compile(Regex(f"a{{{count}}}"), [END])
    assert one.compile(Regex("a{1}"), [END]) is first()
    for count in range(40, 80):
        one.compile(Regex(f"a{{{count}}}"), [END])
    assert first() is None
    assert one.compile(Regex("b"), [END]) is in_use


@pytest.mark.parametrize(
    ("constraint", "texts"),
    [
        (Choice(["a", "ab", "abb"]), {b"a": False, b"ab": False, b"abb": True}),
        (Choice(["a", "b"]), {b"a": True, b"b": True}),
        (Choice(["", "a"]), {b"": False, b"a": True}),
        (Regex("a*b?"), {b"": False, b"aa": False, b"aab": True}),
    ],
)
def test_a_text_is_complete_where_it_is_whole_and_cannot_go_on(constraint, texts: dict[bytes, bool]) -> None:
    found = compiler().compile(constraint, [END])
    automaton = found.automaton
    for text, complete in texts.items():
        state = automaton.start
        for byte in text:
            token_class = automaton.token_class[TOKENS.index(bytes([byte]))]
            edges = range(*automaton.edge_start[state : state + 2])
            (state,) = (
                int(automaton.edge_target[edge])
                for edge in edges
                if token_class in automaton.group_class[slice(*automaton.group_start[automaton.edge_group[edge] :][:2])]
            )
        assert found.complete(state) == complete
    assert found.complete(automaton.end)


def test_what_cannot_be_spelled_or_has_no_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match="cannot spell any text"):
        compiler().compile(Choice(["xyz"]), [END])
    engine = scripted_engine(tmp_path, random_logits(0), ends=())
    with pytest.raises(RequestError, match="names no end token"):
        engine.generate("a", constraint=Regex("a"))
    with pytest.raises(ConstraintError, match="need an end token"):
        engine.choose("a", ["x", "y"])


def test_a_constraint_that_is_compiled_is_not_written_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a schema takes longer than a denoising step; a request for a known one does not."""
    engine = scripted_engine(tmp_path, random_logits(0), canvas_length=4)
    schema = JSONSchema({"type": "boolean"})
    engine.generate("a", constraint=schema, max_tokens=3)
    monkeypatch.setattr(JSONSchema, "expression", property(lambda self: pytest.fail("written out again")))
    engine.generate("a", constraint=JSONSchema({"type": "boolean"}), max_tokens=3)


@pytest.mark.parametrize("constraint", [5, "a", {"type": "string"}, JSONSchema, object(), [Regex("a")]])
def test_what_is_no_constraint_is_refused(tmp_path: Path, constraint: Any) -> None:
    engine = scripted_engine(tmp_path, random_logits(0))
    with pytest.raises(RequestError, match=r"constraint .* must be a JSONSchema, Regex, Choice or Template"):
        engine.generate("a", constraint=constraint)
    assert model_of(engine).encoded == []
