"""Compiled byte automata, held against their reference: the same arrays, steps and refusals of every expression."""

import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton, build_reference
from redraft.constrain.automaton.limits import Budget, Limits
from redraft.constrain.constraint import JSONSchema
from redraft.constrain.expression import (
    EMPTY,
    NOTHING,
    AllOf,
    AnyOf,
    Characters,
    Expression,
    Literal,
    Marker,
    Network,
    Repeat,
    Sequence,
    Without,
    any_of,
    joined,
)
from redraft.constrain.language.regex import parse
from redraft.errors import ConstraintError
from redraft.kernels import automata
from redraft.kernels.library import native, status
from tests.constrain.automaton.test_bytes import expressions
from tests.constrain.automaton.test_fitting import words
from tests.constrain.random_schemas import RandomSchemas
from tests.thorough import some

pytestmark = pytest.mark.skipif(native() is None, reason=status().reason)
BOTH = (build_reference, automata.build)
SHARED = joined("k", parse("[0-9]{1,3}"))


@dataclass
class Came:
    """What came of building an expression."""

    automaton: ByteAutomaton | None
    refusal: str
    steps: int
    members: int


def came(build: byte_automaton.Implementation, expression: Expression, limits: Limits) -> Came:
    budget = Budget(limits)
    automaton, refusal = None, ""
    try:
        automaton = build(expression, budget)
    except ConstraintError as error:
        refusal = str(error)
    return Came(automaton, refusal, budget.steps, budget.members)


def assert_same(expression: Expression, limits: Limits | None = None) -> Came:
    limits = Limits() if limits is None else limits
    expected, found = (came(build, expression, limits) for build in BOTH)
    assert found.refusal == expected.refusal
    assert (found.steps, found.members) == (expected.steps, expected.members)
    if expected.automaton is None:
        assert found.automaton is None
    else:
        assert found.automaton is not None
        np.testing.assert_array_equal(found.automaton.transitions, expected.automaton.transitions)
        np.testing.assert_array_equal(found.automaton.accepting, expected.automaton.accepting)
        assert (found.automaton.start, found.automaton.steps) == (0, expected.automaton.steps)
    return found


@settings(deadline=None, max_examples=some(150, 60), suppress_health_check=[HealthCheck.too_slow])
@given(expressions)
def test_any_expression(expression: Expression) -> None:
    assert_same(expression)


@pytest.mark.parametrize("loose", [False, True], ids=["strict", "loose"])
def test_random_schemas(loose: bool) -> None:
    compiled = 0
    for seed in range(16):
        try:
            expression = JSONSchema(RandomSchemas(seed, loose=loose).draw()).expression
        except ConstraintError:
            continue
        compiled += assert_same(expression).automaton is not None
    assert compiled > 8


@pytest.mark.parametrize(
    "expression",
    [
        EMPTY,
        NOTHING,
        Literal(""),
        Characters(()),
        Marker(3),
        any_of(Marker(0), joined(Marker(7), "é")),
        any_of(*words(300, 3)),
        any_of("", *words(70, 4), *words(70, 4), "é", "éé", "€uro", "😀"),
        Characters.of([(0, 0x10FFFF)]),
        Characters.of([(0x24, 0x24), (0x7F, 0x80), (0x7FF, 0x805), (0xD700, 0xE010), (0xFFFF, 0x10001)]),
        Repeat(Literal("ab"), 2, None),
        Repeat(Literal("ab"), 0, 0),
        Repeat(Literal("ab"), 3, 2),
        Repeat(Literal("ab"), 0, 7),
        joined(SHARED, Repeat(joined(",", SHARED), 0, None)),
        joined(SHARED, Repeat(joined(",", " ", SHARED), 0, None), SHARED),
        Network(3, ((0, Literal("a"), 2), (2, SHARED, 0), (2, Literal(","), 1), (1, EMPTY, 0))),
        AllOf((parse("[ad]x[1-4]|[bc]y[1-4]"), parse("a[xy]1|b[xy]2|c[xy]3|d[xy]4"), parse(".*[1-3]"))),
        AllOf((Literal("a"), Literal("b"))),
        AllOf((SHARED,)),
        Without(parse("[a-c]{1,4}"), parse(".*b.*")),
        Without(SHARED, SHARED),
        Without(SHARED, NOTHING),
        Without(any_of("axp", "bxq", "z", "adef", "bdef"), any_of("adef", "bdef")),
        joined(AllOf((SHARED, parse(".{2}"))), "-", AllOf((SHARED, Without(parse(".*"), parse("k1.*"))))),
    ],
)
def test_each_kind_of_part(expression: Expression) -> None:
    assert_same(expression)


def nested(depth: int) -> Expression:
    """An intersection in an intersection, and so on."""
    whole: Expression = Literal("a")
    for _ in range(depth):
        whole = AllOf((joined("b", whole), parse("[ab]*")))
    return whole


@pytest.mark.parametrize(
    ("expression", "limits"),
    [
        (parse("(.*a.{8})"), Limits(states=1000)),
        (parse("(a|b)*a(a|b){30}"), Limits(states=500)),
        (parse("((a{0,100}){0,100}){0,100}"), Limits(nfa_states=9000)),
        (Repeat(EMPTY, 10**12, 10**15), Limits()),
        (Repeat(EMPTY, 10**30, None), Limits()),
        (Repeat(any_of(*["x"] * 1000), 0, 9000), Limits(nfa_states=10_000)),
        (Literal("a" * 200_000), Limits()),
        (parse("[a-w]{0,9}x"), Limits(states=9)),
        (parse("(|){0,9000}"), Limits(steps=50_000)),
        (AllOf((parse("([ab]{30})*"), parse("([ab]{31})*"))), Limits(steps=5000)),
        (AllOf((parse("([ab]{30})*"), parse("([ab]{31})*"))), Limits(states=100)),
        (AllOf(()), Limits()),
        (nested(20), Limits()),
        (nested(21), Limits()),
    ],
)
def test_each_refusal(expression: Expression, limits: Limits) -> None:
    found = assert_same(expression, limits)
    assert bool(found.refusal) is (expression != nested(20))


def test_half_a_surrogate_pair_is_refused_before_any_work() -> None:
    refusals = {came(build, joined("a", Literal("\ud800")), Limits()).refusal for build in BOTH}
    assert len(refusals) == 1
    assert "half a surrogate pair" in refusals.pop()


def test_a_text_can_stand_at_too_many_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("constrain.automaton.limits", "kernels.automata"):
        monkeypatch.setattr(f"redraft.{module}.MAX_MEMBERS", 50_000)
    assert "too many places" in assert_same(parse("a?" * 400)).refusal


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_large_automata(seed: int) -> None:
    """Of several thousand states, with circles, sharing and dead ends, so that many rounds of refinement are needed."""
    chance = np.random.default_rng(seed)
    texts = ["".join(chance.choice([*"abc"], size=chance.integers(1, 9))) for _ in range(400)]
    parts: tuple[Expression, ...] = tuple(Repeat(Literal(text), 0, int(chance.integers(1, 5))) for text in texts[:60])
    whole = joined(Repeat(any_of(*texts[:20]), 0, None), Sequence(parts[:6]), AnyOf(parts))
    found = assert_same(Without(whole, joined(Repeat(any_of(*texts[20:30]), 0, 40), "c")))
    assert found.automaton is not None
    assert found.automaton.states > 200


def test_deep_trees_do_not_overflow_the_stack() -> None:
    whole: Expression = Literal("a")
    for _ in range(50_000):
        whole = Sequence((whole,))
    assert_same(whole)


def test_what_a_budget_has_spent_counts() -> None:
    """Two builds share a budget as they do in the reference."""
    spent = []
    for build in BOTH:
        budget = Budget(Limits())
        build(SHARED, budget)
        build(parse("[ab]{3}"), budget.renewed())
        spent.append((budget.steps, budget.members))
    assert spent[0] == spent[1]


def test_an_engine_and_the_compiling_process_use_it_and_import_no_more() -> None:
    """The process that only compiles has no torch."""
    code = (
        "import sys\n"
        "from redraft.engine.compiling import worker\n"
        "from redraft.kernels import automata\n"
        "assert worker.automata is automata and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=300)


def test_without_a_library_the_reference_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automata, "native", lambda: None)
    monkeypatch.setattr(automata, "_Code", None)
    found = automata.build(SHARED, Budget(Limits()))
    assert found is not None
    assert [found.matches(text) for text in (b"k1", b"k123", b"k", b"k1234")] == [True, True, False, False]
