"""The automaton of slots: it accepts exactly the canvases whose slots hold a text and end tokens, whatever stands
between them."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.slots import SlotAutomaton, Turn, build
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference.chain import ClassSums
from redraft.constrain.language import regex
from redraft.errors import ConstraintError
from redraft.kernels.inference import infer

# Token 0 has no text, 5 is the end.
SPELLED = [b"", b"a", b"b", b"ab", b"-", b""]
END = 5


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_tokens(SPELLED)


def slots(vocabulary: Vocabulary, patterns: list[str], levels: list[list[Turn]]) -> SlotAutomaton:
    texts = [
        token_automaton.build(byte_automaton.build(regex.parse(pattern)), vocabulary, [END]) for pattern in patterns
    ]
    return build(texts, levels, 0)


def text_of(tokens: tuple[int, ...]) -> str | None:
    """The text of a slot's tokens; None where no end token follows it, or something follows the end."""
    if END not in tokens:
        return None
    end = tokens.index(END)
    said = tokens[:end]
    return None if 0 in said or set(tokens[end:]) != {END} else b"".join(SPELLED[one] for one in said).decode()


def canvases(widths: list[int], gap: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to fill slots of some widths, a tuple of tokens each."""
    yield from product(*(product(range(len(SPELLED)), repeat=width) for width in widths))


@pytest.mark.parametrize("gap", [1, 3])
def test_inference_is_what_enumerating_every_canvas_finds(vocabulary: Vocabulary, gap: int) -> None:
    # The second slot says something only where the first does not begin with an a; its text may be a frame's, too.
    patterns = ["b?(a|b)*", "-|a-?"]
    levels = [[Turn(0, 0, 0), Turn(0, 1, 1)], [Turn(0, 1, 0), Turn(1, 0, 0), Turn(1, 1, 1)]]
    automaton = slots(vocabulary, ["ba?|", "-|a-?"], levels)
    del patterns
    widths, rng = [2, 3], np.random.default_rng(gap)
    frame = np.array([False] * 0 + [True] * gap + [False] * 2 + [True] * gap + [False] * 3)
    logits = rng.standard_normal((len(frame), len(SPELLED)))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def accepted(texts: list[str | None]) -> bool:
        ways = {("ba?|", "-|a-?"), ("-|a-?", "ba?|"), ("-|a-?", "-|a-?")}
        language = {"ba?|": {"b", "ba", ""}, "-|a-?": {"-", "a", "a-"}}
        return any(all(text in language[name] for text, name in zip(texts, way, strict=True)) for way in ways)

    free, found = probabilities[~frame], {}
    for filled in canvases(widths, gap):
        if accepted([text_of(own) for own in filled]):
            tokens = sum(filled, ())
            found[tokens] = float(np.prod(free[np.arange(5), tokens]))
    sums = class_sums(automaton, probabilities).pinned(
        np.flatnonzero(frame), np.full(int(frame.sum()), automaton.frame_class)
    )
    got = infer(automaton.chain, automaton.start, automaton.ended, sums, rng.random((len(frame), 2)))
    assert np.exp(got.log_valid) == pytest.approx(sum(found.values()), rel=1e-6)
    assert np.exp(got.best_logprob) == pytest.approx(max(found.values()), rel=1e-6)
    best = max(found, key=lambda tokens: found[tokens])
    assert automaton.token_class[list(best)].tolist() == got.best_classes[~frame].tolist()


def class_sums(automaton: SlotAutomaton, probabilities: np.ndarray) -> ClassSums:
    """Sums by brute force: a token of a class after the other."""
    shape = len(probabilities), automaton.classes
    mass, plogp, peak = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)
    for token, number in enumerate(automaton.token_class.tolist()):
        own = probabilities[:, token]
        mass[:, number] += own
        plogp[:, number] += own * np.log(own)
        peak[:, number] = np.maximum(peak[:, number], np.log(own))
    return ClassSums(mass, plogp, peak)


def test_what_stays_in_a_slot_is_kept_to(vocabulary: Vocabulary) -> None:
    automaton = slots(vocabulary, ["ab|b"], [[Turn(0, 0, 0)]])
    sums = class_sums(automaton, np.full((4, len(SPELLED)), 1 / 6))

    def inferred(position: int, token: int) -> list[int]:
        numbers = np.array([automaton.frame_class, automaton.token_class[token]])
        held = sums.pinned(np.array([0, position]), numbers)
        return infer(automaton.chain, automaton.start, automaton.ended, held, np.zeros((4, 2))).best_classes.tolist()

    assert inferred(1, 1)[2] == automaton.token_class[2]
    assert inferred(2, END)[1] in (automaton.token_class[2], automaton.token_class[3])
    with pytest.raises(ConstraintError, match="position 3 cannot stand there"):
        inferred(3, 2)


def test_the_shortest_texts_are_told(vocabulary: Vocabulary) -> None:
    automaton = slots(vocabulary, ["bb|aba", "ab", "(b)*"], [[Turn(0, 0, 0), Turn(0, 2, 1)], [Turn(0, 1, 0)]])
    assert automaton.min_tokens == (2, 1)
    assert set(automaton.after) == {0}
