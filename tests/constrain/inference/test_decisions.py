"""Typed decisions compared with every filling in every tokenisation, over tiny vocabularies."""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference import chain as inference
from redraft.constrain.inference.chain import ClassSums, edge_posteriors
from redraft.constrain.inference.decisions import Decided, Decisions, calibrated
from redraft.errors import ConstraintError
from tests.constrain.chains import Enumeration, Floats, distributions, toy

Frame = Sequence[str | tuple[str, Sequence[str]]]

END, LAST = 0, 1
# Two ids of the same bytes, tokens over borders (" x" aside), parts of characters, a token without text.
TOKENS = [
    b"", b"", b"a", b"b", b"ab", b"ab", b"ba", b" ", b" ", b" a", b"  ", b" ab", b":", b": ", b":a", b"a:", b"b\n",
    b"\n", b"\nb", "é".encode(), b"\xc3", b"\xa9", b"\xa9:", b"", b"abab",
]  # fmt: skip


class BruteForce:
    """Every filling of the frame, in every split into tokens that has a border at each end of every hole."""

    def __init__(self, frame: Frame, tokens: Sequence[bytes], ends: Sequence[int]) -> None:
        self.tokens, self.ends = tokens, list(ends)
        self.readings: list[tuple[dict[str, str], tuple[int, ...]]] = []
        self.spans: list[dict[str, tuple[int, int]]] = []
        """For each reading, the bytes that stand in each hole, with the spaces before it."""
        holes = [part for part in frame if not isinstance(part, str)]
        for answers in product(*(options for _, options in holes)):
            text, borders, filling, spans = "", set[int](), iter(answers), {}
            for part in frame:
                if isinstance(part, str):
                    text += part
                    continue
                start = self._before(text, borders)
                text += next(filling)
                spans[part[0]] = start, len(text.encode())
                borders.update(spans[part[0]])
            answer = dict(zip((name for name, _ in holes), answers, strict=True))
            splits = list(self._splits(text.encode(), borders))
            self.readings += [(answer, split) for split in splits]
            self.spans += [spans] * len(splits)

    @staticmethod
    def _before(text: str, borders: set[int]) -> int:
        """Where the spaces at the end of the text begin, not before the last hole's end."""
        return max(len(text.rstrip(" ").encode()), max(borders, default=0))

    def _splits(self, text: bytes, borders: set[int], start: int = 0) -> Iterator[tuple[int, ...]]:
        if start == len(text):
            yield ()
        for token, spelled in enumerate(self.tokens):
            end = start + len(spelled)
            if token in self.ends or not spelled or text[start:end] != spelled:
                continue
            if not any(start < border < end for border in borders):
                yield from ((token, *rest) for rest in self._splits(text, borders, end))

    def logprobs(self, logp: Floats) -> list[tuple[dict[str, str], float]]:
        """Of every reading, with an end token after it where the canvas goes on."""
        found = []
        for answer, split in self.readings:
            if len(split) > len(logp):
                continue
            logprob = logp[np.arange(len(split)), list(split)].sum()
            if len(split) < len(logp):
                logprob += np.logaddexp.reduce(logp[len(split), self.ends])
            found.append((answer, float(logprob)))
        return found

    def by_length(self, logp: Floats, question: str) -> dict[str, float]:
        """Return the log of each option's probability with the rest given, for each byte, made to add up to 1.

        The rest is every way to spell what stands around the hole, with as many tokens in the hole as an option has.
        """
        rests = dict[tuple[tuple[int, ...], int, tuple[int, ...]], float]()
        filled, nbytes = dict[str, list[float]](), dict[str, int]()
        cuts = [self._cut(split, spans[question]) for (_, split), spans in zip(self.readings, self.spans, strict=True)]
        for (answer, _), spans, (before, inside, after) in zip(self.readings, self.spans, cuts, strict=True):
            option = answer[question]
            nbytes[option] = spans[question][1] - spans[question][0]
            for count in {len(other) for _, other, _ in cuts}:
                rests[before, count, after] = self._weight(logp, [(0, before), (len(before) + count, after)])
            whole = self._weight(logp, [(0, before + inside + after)])
            filled.setdefault(option, []).append(whole)
        frame = np.logaddexp.reduce(list(rests.values()))
        scores = {option: (np.logaddexp.reduce(logs) - frame) / nbytes[option] for option, logs in filled.items()}
        total = np.logaddexp.reduce(list(scores.values()))
        return {option: float(score - total) for option, score in scores.items()}

    def _cut(self, split: tuple[int, ...], span: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        ends = np.cumsum([len(self.tokens[token]) for token in split])
        first, last = int((ends <= span[0]).sum()), int((ends <= span[1]).sum())
        return split[:first], split[first:last], split[last:]

    def _weight(self, logp: Floats, pieces: Sequence[tuple[int, tuple[int, ...]]]) -> float:
        """The log weight of tokens from a position on, the last piece with an end token where the canvas goes on."""
        end = pieces[-1][0] + len(pieces[-1][1])
        if end > len(logp):
            return -math.inf
        found = sum(logp[start + i, token] for start, piece in pieces for i, token in enumerate(piece))
        return float(found + (np.logaddexp.reduce(logp[end, self.ends]) if end < len(logp) else 0.0))

    def decided(self, logp: Floats) -> tuple[dict[tuple[str, str], float], float]:
        """Log probability of each question's option, and of any filling at all."""
        weighted = self.logprobs(logp)
        log_valid = float(np.logaddexp.reduce([logprob for _, logprob in weighted], initial=-np.inf))
        options: dict[tuple[str, str], float] = {}
        for answer, logprob in weighted:
            for item in answer.items():
                options[item] = float(np.logaddexp(options.get(item, -np.inf), logprob))
        return {item: logprob - log_valid for item, logprob in options.items()}, log_valid


def written(frame: Frame) -> tuple[str, dict[str, Sequence[str]]]:
    """The frame as text, and the questions."""
    text = "".join(
        part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else f"{{{part[0]}}}" for part in frame
    )
    return text, dict(part for part in frame if not isinstance(part, str))


def class_sums(decisions: Decisions, logp: Floats) -> ClassSums:
    """The class sums of distributions [L, V]."""
    own = decisions.token_class == np.arange(decisions.classes)[:, None]
    p = np.exp(logp)[:, None]
    mass, plogp = np.where(own, p, 0.0).sum(-1), np.where(own, p * np.maximum(logp, -1e9)[:, None], 0.0).sum(-1)
    return ClassSums(mass, plogp, np.where(own, logp[:, None], -np.inf).max(-1))


def check(decided: Decided, expected: Mapping[tuple[str, str], float], log_valid: float, rtol: float = 1e-9) -> None:
    assert decided.log_valid == pytest.approx(log_valid, rel=1e-11, abs=1e-11)
    for question, options in decided.log_probabilities.items():
        assert sum(decided.probabilities[question].values()) == pytest.approx(1, abs=1e-9)
        for option, logprob in options.items():
            assert logprob == pytest.approx(expected.get((question, option), -math.inf), rel=rtol, abs=rtol)


FRAMES: dict[str, list[str | tuple[str, Sequence[str]]]] = {
    "one hole alone": [("q", ("a", "b"))],
    "options that begin alike, with ends": ["a", ("q", ("a", "ab", "abab")), ":"],
    "spaces before the hole": ["ab:  ", ("q", ("a", "ab", "b")), "\n", ("r", ("a", "ba"))],
    "two holes next to each other": [("q", ("a", "b")), ("r", ("ab", "ba", ":"))],
    "nothing but spaces between holes": [("q", ("ab", "ba")), " ", ("r", ("ab", "a"))],
    "options with spaces of their own": ["a ", ("q", (" a", "a", "b ")), ": "],
    "parts of characters": ["é", ("q", ("é", "éé", "aé")), ":é"],
    "tokens that could reach over borders": ["b", ("q", ("a", "b")), "\n", ("r", ("b", "ab")), ":a"],
    "a frame split by doubled braces": ["a{}b", ("q", ("a", "{")), "}"],
}
BRACES = [b"{", b"}", b"{}", b"a{", b"}b"]


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_options_are_as_probable_as_all_their_readings_together(frame, scale: float):
    """Canvases from the shortest filling on to well beyond the longest."""
    tokens, ends = TOKENS + BRACES, [END, LAST]
    decisions = Decisions.compile(*written(frame), Vocabulary.from_tokens(tokens), ends)
    exact = BruteForce(frame, tokens, ends)
    assert decisions.min_tokens == min(len(split) for _, split in exact.readings)
    for length in range(decisions.min_tokens, decisions.min_tokens + 8):
        logp = distributions(np.random.default_rng(length), length, len(tokens), scale)
        check(decisions.decide(class_sums(decisions, logp)), *exact.decided(logp))


@st.composite
def _frames(draw: st.DrawFn) -> list[str | tuple[str, Sequence[str]]]:
    text = st.text("ab :\n", max_size=3)
    frame: list[str | tuple[str, Sequence[str]]] = [draw(text)]
    for name in draw(st.sampled_from(["q", "qr", "qrs"])):
        options = draw(st.lists(st.text("ab :\n", min_size=1, max_size=2), min_size=2, max_size=3, unique=True))
        frame += [(name, options), draw(text)]
    return frame


@settings(max_examples=40, deadline=None)
@given(_frames(), st.integers(0, 10**6), st.integers(0, 6))
def test_any_frame_is_refused_as_ambiguous_or_decided_exactly(frame, seed: int, more: int):
    """It is refused exactly if two fillings make the same text."""
    fillings = ["".join(parts) for parts in product(*([p] if isinstance(p, str) else p[1] for p in frame))]
    text, questions = written(frame)
    vocabulary = Vocabulary.from_tokens(TOKENS)
    if len(set(fillings)) < len(fillings):
        with pytest.raises(ConstraintError, match="some text can be read with"):
            Decisions.compile(text, questions, vocabulary, [END])
        return
    decisions = Decisions.compile(text, questions, vocabulary, [END])
    exact = BruteForce(frame, TOKENS, [END])
    logp = distributions(np.random.default_rng(seed), decisions.min_tokens + more, len(TOKENS), 3.0)
    check(decisions.decide(class_sums(decisions, logp)), *exact.decided(logp))


def test_a_token_has_a_class_exactly_if_some_reading_has_it():
    """Ids of the same bytes share one, no others do; end tokens have the last."""
    for frame in FRAMES.values():
        decisions = Decisions.compile(*written(frame), Vocabulary.from_tokens(TOKENS + BRACES), [END, LAST])
        used = {token for _, split in BruteForce(frame, TOKENS + BRACES, [END, LAST]).readings for token in split}
        numbers = decisions.token_class.tolist()
        assert {token for token, number in enumerate(numbers) if 0 < number < decisions.classes - 1} == used
        assert numbers[END] == numbers[LAST] == decisions.classes - 1
        by_bytes = {(TOKENS + BRACES)[token]: numbers[token] for token in used}
        assert all(by_bytes[(TOKENS + BRACES)[token]] == numbers[token] for token in used)
        assert len(set(by_bytes.values())) == len(by_bytes) == decisions.classes - 2


@pytest.mark.parametrize("low", [-800.0, -4000.0, -1e7])
def test_what_is_nearly_impossible_still_has_its_probability(low: float):
    """The frame and every option are as unlikely as that at each position, and differ by what can be counted.

    Also where a class's mass underflows: there its likeliest token is what it weighs.
    """
    frame: Frame = ["ab: ", ("q", ("a", "ab", "b")), "\n", ("r", ("a", "ba"))]
    decisions = Decisions.compile(*written(frame), Vocabulary.from_tokens(TOKENS), [END])
    rng = np.random.default_rng(0)
    logp = low + rng.standard_normal((9, len(TOKENS)))
    # A token that stands nowhere takes all the probability there is.
    logp[:, -2] = 0.0
    sums = class_sums(decisions, logp)
    twice = {token: TOKENS.index(spelled) for token, spelled in enumerate(TOKENS) if spelled}
    weights = logp.copy()
    for token, first in twice.items():
        if token != first:
            # Of two tokens whose probabilities underflow, the likelier one counts.
            weights[:, first] = np.maximum(weights[:, first], weights[:, token])
            weights[:, token] = -np.inf
    expected, log_valid = BruteForce(frame, TOKENS, [END]).decided(weights)
    check(decisions.decide(sums), expected, log_valid, rtol=1e-6)


def test_a_forced_path_far_below_the_best_text_is_exact():
    """One option fits the model's favourite text, the other is e^-4000 of it: its log probability is right."""
    frame: Frame = ["a", ("q", ("a", "b")), "ab"]
    decisions = Decisions.compile(*written(frame), Vocabulary.from_tokens([b"", b"a", b"b"]), [END])
    logp = np.full((6, 3), -1e9)
    logp[0, 1] = logp[1, 1] = logp[2, 1] = logp[3, 2] = logp[4, 0] = 0.0
    logp[1, 2] = -4000.0
    decided = decisions.decide(class_sums(decisions, logp))
    assert decided.log_probabilities == {"q": {"a": 0.0, "b": -4000.0}}
    assert decided.probabilities == {"q": {"a": 1.0, "b": 0.0}}


def test_the_order_of_options_and_questions_changes_nothing_but_the_order():
    """Bit for bit."""
    frame, questions = "ab: {q}\n{r}:{s}", {"q": ("a", "ab", "b", "abab"), "r": ("a", "ba"), "s": ("é", "a", ":")}
    vocabulary, rng = Vocabulary.from_tokens(TOKENS), np.random.default_rng(0)
    first = Decisions.compile(frame, questions, vocabulary, [END])
    logp = distributions(rng, 14, len(TOKENS), 3.0)
    expected = first.decide(class_sums(first, logp))
    for _ in range(10):
        shuffled = {
            name: tuple(rng.permutation(questions[name]).tolist()) for name in rng.permutation(list(questions)).tolist()
        }
        other = Decisions.compile(frame, shuffled, vocabulary, [END])
        found = other.decide(class_sums(other, logp))
        assert found == expected
        order = [(name, list(options)) for name, options in found.probabilities.items()]
        assert order == [(name, list(options)) for name, options in shuffled.items()]


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_by_length_options_compare_by_their_probability_for_each_byte(frame):
    """The frame around the hole is given, and does not count as a part of any option."""
    tokens, ends = TOKENS + BRACES, [END, LAST]
    decisions = Decisions.compile(*written(frame), Vocabulary.from_tokens(tokens), ends)
    exact, rng = BruteForce(frame, tokens, ends), np.random.default_rng(0)
    most = max(len(split) for _, split in exact.readings)
    for length in (decisions.min_tokens, most, most + 2):
        logp = distributions(rng, length, len(tokens), 2.0)
        found = decisions.decide(class_sums(decisions, logp), normalize="length").log_probabilities
        for question, options in found.items():
            expected = exact.by_length(logp, question)
            assert options == pytest.approx({option: expected[option] for option in options}, rel=1e-9, abs=1e-9)


def test_by_length_a_long_option_is_not_behind_for_its_length():
    """Tokens of one byte, all equally probable: the sum prefers the short option, by length there is no difference."""
    tokens = [b"", b"a", b"b", b"c"]
    decisions = Decisions.compile("{q}", {"q": ("a", "bbbb")}, Vocabulary.from_tokens(tokens), [END])
    sums = class_sums(decisions, np.full((4, len(tokens)), -math.log(4)))
    assert decisions.decide(sums).probabilities["q"]["a"] > 0.9
    # On a full canvas the rest weighs 1; after "a" it is an end token.
    by_length = decisions.decide(sums.rows(slice(4)), normalize="length").log_probabilities["q"]
    rest = math.log(1 + 1 / 4)
    short, long = -2 * math.log(4) - rest, (-4 * math.log(4) - rest) / 4
    assert by_length["a"] - by_length["bbbb"] == pytest.approx(short - long)


def test_only_the_positions_of_the_canvas_count():
    decisions = Decisions.compile("a{q}", {"q": ("a", "ab")}, Vocabulary.from_tokens(TOKENS), [END])
    sums = class_sums(decisions, distributions(np.random.default_rng(0), 6, len(TOKENS)))
    for length in (2, 3, 4):
        assert decisions.decide(sums, length=length) == decisions.decide(sums.rows(slice(length)))
        assert decisions.probabilities(sums, length=length) == decisions.decide(sums, length=length).probabilities


def test_what_cannot_be_asked_is_refused_by_name():
    vocabulary = Vocabulary.from_tokens([*TOKENS[:-6], b"c"])
    refused: list[tuple[str, Any, str]] = [
        ("{q}", {"q": ["a"]}, r"\{q\}: there must be two options or more, not 1"),
        ("{q}", {"q": []}, r"\{q\}: there must be two options or more, not 0"),
        ("{q}", {"q": ["a", "b", "a"]}, r"\{q\}: the option 'a' is there twice"),
        ("{q}", {"q": ["a", ""]}, r"\{q\}: an option is empty"),
        ("{q}", {"q": "ab"}, r"\{q\}: the options 'ab' must be several texts"),
        ("{q}", {"q": ["a", 1]}, r"\{q\}: the options \['a', 1\] must be several texts"),
        ("{q}{r}", {"q": ["a", "b"]}, r"\{r\}: the hole has no options"),
        ("{q}", {"q": ["a", "b"], "r": ["a", "b"]}, r"\{r\}: the frame has no hole for it"),
        ("{q}:{q}", {"q": ["a", "b"]}, r"\{q\}: its hole stands there twice"),
        ("a", {}, "the frame asks no question"),
        ("{q", {"q": ["a", "b"]}, "position 0 .* a brace that is neither a hole"),
        ("{q} {r}", {"q": ["a", "b"], "r": ["a", "d"]}, r"\{r\}: the tokens .* do not add up to the option ' d'"),
        ("{q}d{r}", {"q": ["a", "b"], "r": ["a", "b"]}, "frame: the tokens .* do not add up to 'd', which stands betw"),
        ("{q}", {"q": ["a", "\ud800"]}, r"\{q\}: '\\ud800' has a lone surrogate"),
        ("{q}{r}", {"q": ["a", "ab"], "r": ["a", "ba"]}, r"\{q\}: some text can be read with 'a' and with 'ab'"),
    ]
    for frame, questions, match in refused:
        with pytest.raises(ConstraintError, match=match):
            Decisions.compile(frame, questions, vocabulary, [END])
    with pytest.raises(ConstraintError, match="decisions need an end token"):
        Decisions.compile("{q}", {"q": ["a", "b"]}, vocabulary, [])
    with pytest.raises(ValueError, match="end token ids"):
        Decisions.compile("{q}", {"q": ["a", "b"]}, vocabulary, [len(TOKENS)])


def test_a_canvas_too_short_is_refused():
    decisions = Decisions.compile("a:{q}a", {"q": ("a", "ab")}, Vocabulary.from_tokens([b"", b"a", b"b", b":"]), [END])
    assert decisions.min_tokens == 4
    sums = class_sums(decisions, distributions(np.random.default_rng(0), 6, 4))
    with pytest.raises(ConstraintError, match="at least 4 tokens, but the canvas has 3 positions"):
        decisions.decide(sums, length=3)
    with pytest.raises(ValueError, match="length 7 must be at most the 6 positions"):
        decisions.decide(sums, length=7)


def sudoku() -> tuple[Decisions, int]:
    """A question for each of the 81 cells, and the size of the vocabulary."""
    tokenizer = Tokenizer.from_file(str(files("redraft") / "bundled/sudoku/tokenizer.json"))
    vocabulary = Vocabulary.of(tokenizer, tokenizer.get_vocab_size())
    cells = [[f"r{row}c{column}" for column in range(1, 10)] for row in range(1, 10)]
    frame = "\n".join("".join(f"{{{cell}}}" for cell in row) for row in cells)
    questions = {cell: list("123456789") for row in cells for cell in row}
    end = tokenizer.token_to_id("<eos>")
    assert end is not None
    return Decisions.compile(frame, questions, vocabulary, [end]), vocabulary.size


def test_every_cell_of_a_grid_is_decided_at_once():
    """Where each digit is one token the positions stand alone: a cell's digits share out their own mass."""
    decisions, size = sudoku()
    assert decisions.min_tokens == 89
    logp = distributions(np.random.default_rng(0), 90, size)
    sums = class_sums(decisions, logp)
    found = decisions.probabilities(sums)
    digits = list(range(4, 13))
    for cell, options in enumerate(found.values()):
        row, column = divmod(cell, 9)
        weights = np.exp(logp[10 * row + column, digits])
        np.testing.assert_allclose(list(options.values()), weights / weights.sum(), rtol=1e-10)


def test_a_large_vocabulary_and_many_long_options_make_few_classes():
    """Thirty thousand tokens and two hundred options that begin alike, in ten holes: few are of any use."""
    rng = np.random.default_rng(0)
    words = {bytes(rng.integers(97, 107, int(rng.integers(1, 6))).tolist()) for _ in range(30000)}
    vocabulary = Vocabulary.from_tokens([b"", b"\n", *sorted(words)])
    options = ["abcdefghij" * 3 + bytes(rng.integers(97, 107, 8).tolist()).decode() for _ in range(200)]
    questions = {f"q{number}": sorted(set(options)) for number in range(10)}
    decisions = Decisions.compile("\n".join(f"{{{name}}}" for name in questions), questions, vocabulary, [END])
    assert decisions.classes < 10000


def _expected(machine, states: NDArray[np.int64], sequences: NDArray[np.int64], posterior: Floats) -> Floats:
    """[E]: how often each edge is taken, by enumeration."""
    chain = machine.chain
    counts = np.zeros(len(chain.edge_target))
    for edge in range(len(counts)):
        source, target, group = int(chain.edge_source[edge]), chain.edge_target[edge], chain.edge_group[edge]
        classes = chain.group_class[chain.group_start[group] : chain.group_start[group + 1]]
        taken = (
            (states[:, :-1] == source) & (states[:, 1:] == target) & np.isin(machine.token_class[sequences], classes)
        )
        counts[edge] = posterior @ taken.sum(1)
    return counts


@pytest.mark.parametrize("length", range(1, 5))
def test_edges_are_taken_as_often_as_enumeration_says(length: int):
    """Random automata with loops, in which an edge is taken several times; the error is that of ``infer``."""
    possible = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=int(rng.integers(1, 5)))
        start = int(rng.integers(machine.states))
        end = np.where(rng.random(machine.states + 1) < 0.3, -np.inf, -rng.random(machine.states + 1))
        logp = distributions(rng, length)
        exact = Enumeration(machine, start, end, logp)
        arguments = (machine.chain, start, end, machine.class_sums(logp))
        if not exact.possible:
            with pytest.raises(ConstraintError):
                edge_posteriors(*arguments)
            continue
        possible += 1
        found = edge_posteriors(*arguments)
        expected = _expected(machine, exact.states, exact.sequences, exact.posterior)
        np.testing.assert_allclose(found.expected, expected, rtol=1e-9, atol=1e-12)
        assert found.log_valid == pytest.approx(exact.log_valid, rel=1e-11, abs=1e-12)
        assert found.log_valid == inference.infer(*arguments, np.zeros((length, 2))).log_valid
    assert possible > 10


class TestCalibrated:
    def test_log_odds_are_divided_by_the_temperature(self):
        probabilities = {"q": {"a": 0.9, "b": 0.06, "c": 0.04}, "r": {"x": 0.5, "y": 0.5}}
        for temperature in (0.5, 1.0, 3.0):
            found = calibrated(probabilities, temperature)
            for question, options in probabilities.items():
                assert sum(found[question].values()) == pytest.approx(1)
                for one, other in product(options, repeat=2):
                    odds = math.log(options[one] / options[other]) / temperature
                    assert math.log(found[question][one] / found[question][other]) == pytest.approx(odds, abs=1e-12)

    def test_extremes_stay_probabilities(self):
        assert calibrated({"q": {"a": 1.0, "b": 0.0}}, 2.0) == {"q": {"a": 1.0, "b": 0.0}}
        tiny = calibrated({"q": {"a": 1e-300, "b": 1e-308}}, 0.01)["q"]
        assert tiny == {"a": 1.0, "b": 0.0}

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
    def test_a_temperature_that_is_none_is_refused(self, temperature: float):
        with pytest.raises(ValueError, match=f"temperature {temperature} must be above 0"):
            calibrated({"q": {"a": 0.5, "b": 0.5}}, temperature)

    @pytest.mark.parametrize("options", [{"a": 0.0, "b": 0.0}, {"a": -0.1, "b": 1.1}, {"a": math.nan, "b": 1.0}, {}])
    def test_what_are_no_probabilities_is_refused(self, options: dict[str, float]):
        with pytest.raises(ValueError, match="are no probabilities"):
            calibrated({"q": options}, 2.0)
