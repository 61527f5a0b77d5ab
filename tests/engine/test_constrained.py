"""What is generated under a constraint is never invalid, whatever the model says; and every step before is valid too.

Judged by ``json``, ``jsonschema`` and ``re``. The models here say what is scripted: at random, very sure, or set on
breaking the constraint.
"""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor

from redraft import (
    Candidate,
    Choice,
    ConfidenceThreshold,
    ConstraintError,
    EntropyBound,
    Hole,
    JSONSchema,
    Regex,
    ReproducesCanvas,
    RequestError,
    Result,
    StableAndConfident,
    StepEvent,
    Template,
)
from redraft.api import Engine
from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ReadoutSpec
from redraft.canvas.shaping import Filters, Shaping
from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.constraint import Constraint
from redraft.constrain.language.json.text import Whitespace
from redraft.engine.constrained import CanvasConstraint
from redraft.loading import load
from redraft.models.checkpoint import DType
from tests.constrain.random_schemas import RandomSchemas
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS, THOUGHT_IDS, random_checkpoint
from tests.thorough import some

OPENING, CLOSING = THOUGHT_IDS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small take longer to share out than to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# What is asked for, and who judges it.

Judge = Callable[[str], bool]


def json_judge(schema: dict) -> Judge:
    # Python's $ overlooks a line feed at the end.
    strict = json.loads(re.sub(r'("pattern": "[^"]*)\$', r"\1\\\\Z", json.dumps(schema)), parse_float=Decimal)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(strict, format_checker=checker)

    def judge(text: str) -> bool:
        return validator.is_valid(json.loads(text, parse_float=Decimal, parse_constant=lambda name: pytest.fail(name)))

    return judge


def random_pattern(chance: random.Random, depth: int = 3) -> str:
    atoms = ["a", "b", "the", " ", "é", "日", "\\.", "\\{", "[ab]", "[^a]", "[0-9]", "[a-f]", ".", "\\n", '"', "\\w"]
    if depth == 0:
        return chance.choice(atoms)
    inner = [random_pattern(chance, depth - 1) for _ in range(chance.randrange(1, 4))]
    match chance.randrange(4):
        case 0:
            return "".join(inner)
        case 1:
            return f"(?:{'|'.join(inner)})"
        case 2:
            return f"(?:{''.join(inner)}){chance.choice(['*', '+', '?', '{2}', '{1,3}', '{0,2}', '{2,}'])}"
        case _:
            return chance.choice(atoms) + "".join(inner)


HOLES: dict[str, tuple[Hole, str]] = {
    "word": (Hole(type="word", max_length=4), r"\S{1,4}"),
    "line": (Hole(type="line"), r"[^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]*"),
    "number": (Hole(type="number"), r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"),
    "flag": (Hole(type="boolean"), "true|false"),
    "pick": (Hole(choices=("", "yes", "no {way}", "nö")), r"|yes|no \{way\}|nö"),
    "code": (Hole(regex="[A-F]{2}[0-9]*", max_length=6), "[A-F]{2}[0-9]{0,4}"),
    "any": (Hole(min_length=1, max_length=9), r"(?s:.{1,9})"),
}


def random_template(chance: random.Random) -> tuple[Template, str]:
    frame = pattern = ""
    holes = {}
    for name in chance.sample(sorted(HOLES), chance.randrange(1, 5)):
        literal = chance.choice(["", " the ", "{{x}}", "é: ", "\r\n", '"a"'])
        holes[name], described = HOLES[name]
        frame += f"{literal}{{{name}}}"
        pattern += f"{re.escape(literal.replace('{{', '{').replace('}}', '}'))}(?:{described})"
    return Template(frame, holes), pattern


def drawn_constraint(kind: str, seed: int) -> tuple[Constraint, Judge]:
    chance = random.Random(seed)
    match kind:
        case "schema":
            schema = RandomSchemas(seed, loose=chance.random() < 0.4).draw()
            ways: list[Whitespace] = ["compact", "compact", "one-space", "free"]
            return JSONSchema(schema, depth=2, whitespace=chance.choice(ways)), json_judge(schema)
        case "regex":
            pattern = random_pattern(chance)
            return Regex(pattern), lambda text: re.fullmatch(pattern, text, re.ASCII) is not None
        case "choice":
            pool = ["yes", "no", "yes, the", "y", "", "日本", "é", "é ü", "2026", "10", "null\n", " the end"]
            options = chance.sample(pool, chance.randrange(1, 6))
            return Choice(options), lambda text: text in options
        case _:
            template, described = random_template(chance)
            return template, lambda text: re.fullmatch(described, text) is not None


# Models that do not care for what was asked.


def kinds_of_models() -> dict[str, Callable[[int, Engine, Constraint], Callable[[Tensor, int], Tensor]]]:
    def scaled(scale: float) -> Callable[[int, Engine, Constraint], Callable[[Tensor, int], Tensor]]:
        return lambda seed, engine, constraint: random_logits(seed, scale)

    def biased(tokens: list[int], bias: float) -> Callable[[int, Engine, Constraint], Callable[[Tensor, int], Tensor]]:
        def make(seed: int, engine: Engine, constraint: Constraint) -> Callable[[Tensor, int], Tensor]:
            base = random_logits(seed)

            def logits(canvas: Tensor, context: int) -> Tensor:
                out = base(canvas, context)
                out[:, tokens] += bias
                return out

            return logits

        return make

    def saboteur(seed: int, engine: Engine, constraint: Constraint) -> Callable[[Tensor, int], Tensor]:
        """At every position, 60 more for whatever cannot come next in some state of the automaton."""
        automaton, base = engine.runtime.compile(constraint).automaton, random_logits(seed)
        chance = np.random.default_rng(seed)

        def logits(canvas: Tensor, context: int) -> Tensor:
            out = base(canvas, context)
            for position in range(len(canvas)):
                state = int(chance.integers(automaton.states))
                edges = slice(*automaton.edge_start[state : state + 2])
                allowed = np.zeros(automaton.classes, dtype=bool)
                for group in automaton.edge_group[edges]:
                    allowed[automaton.group_class[slice(*automaton.group_start[group : group + 2])]] = True
                out[position, ~torch.from_numpy(allowed[automaton.token_class])] += 60
            return out

        return logits

    return {
        "random": scaled(3.0),
        "flat": scaled(0.0),
        "sure": scaled(60.0),
        "certain": scaled(1000.0),
        "rambling": biased(list(END_TOKEN_IDS), -1000.0),
        "ending": biased(list(END_TOKEN_IDS), 60.0),
        "nonsense": biased([*range(16), *range(128 + 16, 256 + 16)], 60.0),
        "thoughtful": biased([OPENING, CLOSING], 60.0),
        "saboteur": saboteur,
    }


MODELS = kinds_of_models()


# One generation, and all that must be true of it.


@dataclass
class Watch:
    """Checks every step: argmax and sample are valid as far as they go, entropies are those of V tokens."""

    engine: Engine
    texts: ByteAutomaton
    stop: tuple[str, ...]
    max_tokens: int
    events: int = 0
    canvases: int = 0

    def __post_init__(self) -> None:
        self.before: list[int] = []
        self.last: list[int] = []

    def __call__(self, event: StepEvent) -> None:
        self.events += 1
        if event.canvas_index == self.canvases:
            self.canvases += 1
            self.before += self.last
        self.last = event.argmax.tolist()
        self.check(self.last)
        self.check(event.sample.tolist())
        assert (event.entropy >= 0).all()
        assert (event.entropy <= np.log(VOCAB_SIZE) + 1e-4).all()
        if not event.last:
            assert torch.equal(event.tokens_out[event.accepted], event.sample[event.accepted])

    def check(self, canvas: list[int]) -> None:
        """The canvas, after those before it, begins an allowed text that may still be finished, or is one."""
        tokens = [*self.before, *canvas]
        end = next((at for at, token in enumerate(tokens) if token in self.engine.model.defaults.end_token_ids), None)
        if end is not None and end > self.max_tokens:
            end = None
        tokens = tokens[: self.max_tokens if end is None else end]
        whole = end is not None or len(tokens) == self.max_tokens
        if tokens[:1] == [OPENING]:
            if CLOSING not in tokens:
                assert not whole, "the answer ends within a thought"
                return
            tokens = tokens[tokens.index(CLOSING) + 1 :]
        spelled = self.engine.runtime.constraints.vocabulary.spell(tokens)
        state = self.texts.start
        for byte in spelled:
            state = self.texts.transitions[state, byte]
        assert state < self.texts.states, f"{spelled!r} begins no allowed text"
        assert self.texts.accepting[state] or not whole, f"{spelled!r} is not whole"
        if whole:
            assert not any(stop.encode() in spelled for stop in self.stop)


def texts_of(constraint: Constraint, known: dict[Constraint, ByteAutomaton]) -> ByteAutomaton:
    if constraint not in known:
        known[constraint] = byte_automaton.build(constraint.expression)
    return known[constraint]


def min_tokens(engine: Engine, constraint: Constraint, **parameters: Any) -> int:
    """From outside: as the refusal of too few tokens says it, or 1, the least that can be asked for."""
    try:
        engine.request([2, 20], constraint=constraint, max_tokens=1, **parameters)
    except RequestError as error:
        found = re.search(r"its shortest text takes (\d+) tokens", str(error))
        if found is None:
            raise
        return int(found[1])
    return 1


def assert_true(result: Result, watch: Watch, engine: Engine, max_tokens: int, canvas_length: int) -> None:
    """What the result says of itself."""
    usage, count = result.usage, len(result.token_ids)
    assert count == usage.completion_tokens <= max_tokens
    assert (usage.canvases, usage.denoising_steps) == (watch.canvases, watch.events)
    assert len(result.log_valid) == usage.canvases
    assert max(result.log_valid) <= 1e-6
    assert not set(result.token_ids) & set(engine.model.defaults.end_token_ids)
    canvases = [*watch.before, *watch.last]
    assert list(result.token_ids) == canvases[:count]
    if result.finish_reason == "length":
        assert count == max_tokens
    else:
        ended = canvases[count : count + 1]
        assert ended or count == usage.canvases * canvas_length
        assert not ended or ended[0] in engine.model.defaults.end_token_ids or count == max_tokens
    answer = list(result.token_ids)
    if answer[:1] == [OPENING]:
        at = answer.index(CLOSING)
        assert result.thought == engine.tokenizer.decode(answer[1:at])
        answer = answer[at + 1 :]
    assert result.text == engine.tokenizer.decode(answer)


def settings(chance: random.Random) -> dict[str, Any]:
    return {
        "seed": chance.randrange(1 << 64),
        "temperature": chance.choice([0, 0.05, 1.0, 3.0]),
        "max_denoising_steps": chance.choice([1, 1, 2, 2, 3, 5]),
        "canvas_length": chance.choice([1, 2, 3, 5, 7, 8, 13, 24]),
        "acceptance": chance.choice([EntropyBound(0.1), EntropyBound(5.0), ConfidenceThreshold(0.5)]),
        "stopping": chance.choice([StableAndConfident(1, 0.5), ReproducesCanvas(0.5), StableAndConfident(0, 0.01)]),
    }


def generations(kind: str, count: int, folder: Path, each: int = 12) -> Counter[str]:
    """Generate under random constraints of a kind, with random models and settings, and check it all."""
    engine = scripted_engine(folder, random_logits(0))
    done: Counter[str] = Counter()
    known: dict[Constraint, ByteAutomaton] = {}
    seed = 0
    while done["generations"] < count:
        seed += 1
        chance = random.Random(seed)
        constraint, judge = drawn_constraint(kind, seed)
        engine.model.defaults = type(engine.model.defaults)(
            max_denoising_steps=2, end_token_ids=chance.choice([(1,), END_TOKEN_IDS, (1, 5, 40)])
        )
        try:
            engine.min_tokens(constraint)
        except ConstraintError:
            done["contradictions"] += 1
            continue
        for _ in range(each):
            parameters = settings(chance)
            stop = tuple(chance.sample(['"', "a", "1", "}", "the", "é", "\n"], 2)) if chance.random() < 0.15 else ()
            thinking = chance.random() < 0.1
            parameters |= {"stop": stop, "thinking": thinking}
            name = chance.choice(list(MODELS))
            model_of(engine).script = MODELS[name](seed, engine, constraint)
            model_of(engine).encoded.clear()
            try:
                least = min_tokens(engine, constraint, stop=stop, thinking=thinking)
            except ConstraintError:
                assert stop
                done["ruled out by stop strings"] += 1
                continue
            if least > 1:
                with pytest.raises(RequestError, match=f"shortest text takes {least} tokens"):
                    engine.generate([2, 20], constraint=constraint, **{**parameters, "max_tokens": least - 1})
                assert model_of(engine).encoded == [], "refused before any work"
            canvas_length = parameters["canvas_length"]
            max_tokens = least + chance.choice([0, 0, 1, chance.randrange(40)])
            max_tokens = max(least, min(max_tokens, max(least, 4 * canvas_length)))
            watch = Watch(engine, texts_of(constraint, known), stop, max_tokens)
            result = engine.generate([2, 20], constraint=constraint, max_tokens=max_tokens, on_step=watch, **parameters)
            assert judge(result.text), (seed, name, constraint, parameters, result.text)
            assert not any(text in result.text for text in stop)
            assert (result.thought is not None) == thinking
            assert_true(result, watch, engine, max_tokens, canvas_length)
            done["generations"] += 1
            done[f"{min(result.usage.canvases, 4)} canvases"] += 1
            done["at the minimum"] += max_tokens == least
            done["with a thought"] += bool(result.token_ids[:1] == (OPENING,))
            done[result.finish_reason] += 1
    return done


KINDS = ["schema", "regex", "choice", "template"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_denoised_again_or_picked_from_several_is_valid_too(kind: str, tmp_path: Path) -> None:
    """Verifiers that mark at random, with pinned positions around, and several candidates a canvas."""
    engine, done = scripted_engine(tmp_path, random_logits(0)), 0
    seeds = some(30, 12)
    for seed in range(1, seeds):
        chance = random.Random(seed)
        constraint, judge = drawn_constraint(kind, seed)
        try:
            least = engine.min_tokens(constraint)
        except ConstraintError:
            continue
        model_of(engine).script = chance.choice(list(MODELS.values()))(seed, engine, constraint)

        def marked(candidate: Candidate, chance: random.Random = chance) -> list[int]:
            return [at for at in range(len(candidate.token_ids)) if chance.random() < 0.4]

        result = engine.generate(
            [2, 20],
            constraint=constraint,
            max_tokens=max(1, least + chance.choice([0, 1, 9])),
            verifier=marked,
            verify_rounds=chance.randrange(4),
            best_of=chance.randrange(1, 4),
            **settings(chance),
        )
        assert judge(result.text), (seed, constraint, result.text)
        done += 1
    assert done > seeds // 2


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_true_model_writes_nothing_invalid_either(dtype: DType, tmp_path: Path) -> None:
    """From its own hidden states, through the readout that the model has."""
    engine = load(random_checkpoint(tmp_path, letters=True, vocab_size=VOCAB_SIZE, canvas_length=24), dtype=dtype)
    done = 0
    seeds = some(40, 16)
    for seed in range(1, seeds):
        chance = random.Random(seed)
        constraint, judge = drawn_constraint(KINDS[seed % 4], seed)
        try:
            least = engine.min_tokens(constraint)
        except ConstraintError:
            continue
        max_tokens = max(1, least + chance.choice([0, 1, 30]))
        watch = Watch(engine, byte_automaton.build(constraint.expression), (), max_tokens)
        parameters = settings(chance)
        result = engine.generate([2, 20], constraint=constraint, max_tokens=max_tokens, on_step=watch, **parameters)
        assert judge(result.text), (seed, constraint, result.text)
        assert_true(result, watch, engine, max_tokens, parameters["canvas_length"])
        done += 1
    assert done > seeds // 2


@pytest.mark.parametrize("name", ["rambling", "ending", "random"])
def test_the_end_of_the_context_finds_the_text_whole(name: str, tmp_path: Path) -> None:
    """Without a limit of its own an answer goes on to where the context ends, on a last canvas that is shorter."""
    for context in range(10, 10 + some(24, 9)):
        engine = scripted_engine(tmp_path, random_logits(0), canvas_length=8, context_length=context)
        constraint = Regex('"[a-z]*"|(?:ab|cde)+')
        model_of(engine).script = MODELS[name](context, engine, constraint)
        result = engine.generate([2, 20, 21], constraint=constraint, seed=context)
        assert re.fullmatch(constraint.pattern, result.text)
        assert len(result.token_ids) <= context - 3
        with pytest.raises(RequestError, match="the context has 1 left after the prompt; shorten the prompt"):
            engine.generate([2] * (context - 1), constraint=constraint)


def test_greedy_samples_are_the_argmax_under_a_constraint_too(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, random_logits(0), canvas_length=8)
    for temperature in (0, 1.0):
        steps: list[StepEvent] = []
        for seed in range(8):
            engine.generate(
                [2, 20], constraint=Regex("[a-z]{4,20}"), temperature=temperature, seed=seed, on_step=steps.append
            )
        same = [torch.equal(event.sample, event.argmax) for event in steps]
        assert all(same) == (temperature == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("schema", 160), ("regex", 110), ("choice", 110), ("template", 100)])
def test_nothing_invalid_is_generated_in_hundreds(kind: str, count: int, tmp_path: Path) -> None:
    """480 in all, none invalid: any model, temperature, sampler, step limit, canvas length, budget, end tokens, stop
    strings, with a thought before and without."""
    done = generations(kind, count, tmp_path)
    print(kind, dict(done))
    for seen in ("stop", "length", "at the minimum", "with a thought", "1 canvases", "2 canvases", "4 canvases"):
        assert done[seen], seen


# What a step says of single tokens under a constraint.


@pytest.mark.parametrize(("below", "filtered"), [(50.0, False), (400.0, False), (400.0, True)])
def test_log_probabilities_are_those_over_what_can_stand_and_do_not_underflow(
    tmp_path: Path, below: float, filtered: bool
) -> None:
    """Against a dense softmax in float64 over the tokens that can stand at a position, which the model thinks to be as
    unlikely as e^-50, or e^-400, where a class stands for its likeliest token, or of which a filter leaves none."""
    runtime = scripted_engine(tmp_path, random_logits(0)).runtime
    compiled, vocabulary = runtime.compile(Regex("[ab][cd]")), runtime.constraints.vocabulary
    spelled = {vocabulary.spell([token]): token for token in range(VOCAB_SIZE) if vocabulary.has_text[token]}
    places = [[spelled[letter] for letter in pair] for pair in ((b"a", b"b"), (b"c", b"d"))]
    logits = 3 * torch.randn(4, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    logits[:, [*places[0], *places[1]]] -= below
    shaping = Shaping(Filters(top_k=1)) if filtered else None
    (readout,) = runtime.model.readout([logits], [ReadoutSpec(1.0, classes=compiled.classes, shaping=shaping)])
    # Two tokens of the answer and no more, so that the text is one token a letter and an end.
    constraint = CanvasConstraint.of(compiled, compiled.automaton.start, 4, 2)
    readout = constraint.apply(readout, PositionRandom(0, 0, 1, 4), True, None).readout
    for choice in range(2):
        tokens = torch.tensor([places[0][choice], places[1][choice], END_TOKEN_IDS[0], 0])
        found = readout.logprob(tokens).double()
        for place, allowed in enumerate(places):
            own = logits[place, allowed].double()
            if not filtered:
                # Nothing of a mass that is too small for float32 is known but its largest part.
                known = own.logsumexp(-1) if below < 57 else own.amax()
                torch.testing.assert_close(found[place], (own - known)[choice], atol=2e-4, rtol=0)
            else:
                assert found[place] == (0.0 if choice == int(own.argmax()) else -math.inf)
    nowhere = torch.full((4,), spelled[b"z"])
    assert (readout.logprob(nowhere)[:2] == -math.inf).all()
