"""What a JSON schema costs a denoising step: a constrained step against one without, in alternation, and its parts.

    python -m bench.constrained_step                    # bfloat16, float32 and int8; needs about 4 GB and two minutes
    python -m bench.constrained_step --dtype int8 --rounds 9 --json out.json

The model is random: hidden 512, 8 layers, vocabulary 262,144, canvas 256. So is the vocabulary, which is made like
those of byte-level and sentence-piece tokenizers: all bytes, single digits, punctuation in runs, words with and without
a space before them, half of them beyond ASCII. Ratios are taken within a round, of the time on the clock and of the
processors' time of this process, which others on the machine disturb less.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import random_checkpoint
from torch import Tensor

from bench.denoising_step import PROMPT_TOKENS, SHAPE
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference.chain import end_potential
from redraft.constrain.language.json import schema as json_schema
from redraft.engine.constrained import class_sums
from redraft.engine.memory import KVPool
from redraft.kernels import bindings, library
from redraft.kernels.inference import infer
from redraft.kernels.packed import FORMATS, Format
from redraft.measure.timing import alternate, times_as_fast
from redraft.models import checkpoint
from redraft.models.base import Span
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import load_packed

VOCABULARY = 262_144
END_TOKEN = 1
TEMPERATURE = 0.6
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "author": {"type": "string"},
        "year": {"type": "integer", "minimum": 1400, "maximum": 2100},
        "language": {"enum": ["de", "en", "es", "fr", "ja", "zh"]},
        "price": {"type": "number"},
        "in_print": {"type": "boolean"},
        "published": {"type": "string", "format": "date"},
        "keywords": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "publisher": {"type": ["string", "null"]},
        "rating": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["title", "author", "year", "language", "price", "in_print", "published", "keywords", "rating"],
    "additionalProperties": False,
}
LETTERS = (
    "etaoinshrdlucmfwypvbgkjqxz",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "的一是不了人我在有他这中大来",
)
MARKS = [
    '"',
    "'",
    ",",
    ".",
    ":",
    ";",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\\",
    "/",
    "-",
    "_",
    "=",
    "<",
    ">",
    "\n",
    "\t",
    " ",
]


def vocabulary(size: int) -> Vocabulary:
    """Of this many tokens, the first 16 of which stand for no text."""
    chance = random.Random(0)
    tokens = dict.fromkeys(bytes([value]) for value in range(256))
    while len(tokens) < size // 100:
        tokens["".join(chance.choices(MARKS, k=chance.randint(1, 4))).encode()] = None
    while len(tokens) < size - 16:
        letters = LETTERS[0] if chance.random() < 0.5 else chance.choice(LETTERS[1:])
        # Common letters more often, as in words.
        word = "".join(letters[int(len(letters) * chance.random() ** 2)] for _ in range(chance.randint(1, 9)))
        word = word.capitalize() if chance.random() < 0.2 else word
        tokens[(" " * (chance.random() < 0.5) + word).encode()] = None
    return Vocabulary.from_tokens([b""] * 16 + list(tokens))


@dataclass(frozen=True)
class Compiled:
    """The schema over the vocabulary, and the seconds that each part of compiling it took."""

    automaton: TokenAutomaton
    classes: TokenClasses
    seconds: dict[str, float]

    @property
    def nbytes(self) -> int:
        return self.automaton.nbytes + self.classes.nbytes


def compile_schema(words: Vocabulary, longest_title: int | None) -> Compiled:
    """Compile ``SCHEMA``; the vocabulary is cold the first time, when its prefix tree is not made yet."""
    seconds = {}
    bound = {} if longest_title is None else {"maxLength": longest_title}
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "title": {"type": "string", **bound}}}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = make()
        seconds[name] = time.perf_counter() - began
        return made

    text = timed("byte automaton", lambda: byte_automaton.build(json_schema.expression(schema)))
    automaton = timed("token automaton, cold", lambda: token_automaton.build(text, words, [END_TOKEN]))
    timed("token automaton, warm", lambda: token_automaton.build(text, words, [END_TOKEN]))
    classes = timed("token classes", lambda: TokenClasses.of(automaton.token_class, automaton.classes))
    return Compiled(automaton, classes, seconds)


class Steps:
    """A step of each kind on one canvas, with what comes before it: a prompt in the cache, and self-conditioning."""

    def __init__(self, model: PackedModel, compiled: Compiled) -> None:
        self._model, self._compiled = model, compiled
        generator = torch.Generator().manual_seed(0)
        canvas = SHAPE["canvas_length"]
        prompt, tokens = torch.randint(16, model.config.vocab_size, (2, canvas), generator=generator)
        cache = KVPool.of(model).open()[0]
        model.forward([Span(prompt[:PROMPT_TOKENS], cache, "encode")])
        self._uniforms = torch.rand(3, canvas, dtype=torch.float64, generator=generator)
        hidden_size = SHAPE["hidden_size"]
        self._canvas = Span(tokens, cache, "denoise", torch.zeros(canvas, hidden_size))
        self._hidden = torch.randn(canvas, hidden_size, generator=generator)
        self._end = end_potential(compiled.automaton.distance, 0, needs_end=False)
        self.seconds: dict[str, list[float]] = {}
        """Of each part of a constrained step."""

    def plain(self, _: int) -> None:
        """A step without a constraint."""
        self._read(self._denoise(), None)

    def constrained(self, _: int) -> None:
        """A step with one, whose parts are noted."""
        hidden = self._part("denoise", self._denoise)
        readout = self._part("readout", lambda: self._read(hidden, self._compiled.classes))
        found, sums = readout.classes, class_sums(readout)
        automaton, uniforms = self._compiled.automaton, self._uniforms[1:].T.contiguous().numpy()
        paths = self._part("infer", lambda: infer(automaton, automaton.start, self._end, sums, uniforms))
        self._part("argmax", lambda: _likeliest(found.argmax, readout.argmax, torch.from_numpy(paths.best_classes)))
        self._part("draw", lambda: found.draw(torch.from_numpy(paths.sampled_classes), self._uniforms[0]))

    def plain_readout(self, _: int) -> None:
        """A readout without a constraint."""
        self._read(self._hidden, None)

    def _denoise(self) -> Tensor:
        (hidden,) = self._model.forward([self._canvas])
        assert hidden is not None, "a canvas has hidden states"
        return hidden

    def _read(self, hidden: Tensor, classes: TokenClasses | None) -> Readout:
        # Under a constraint the samples are drawn once inference has found the classes.
        uniforms = self._uniforms[0] if classes is None else None
        spec = ReadoutSpec(TEMPERATURE, uniforms, self_conditioning=True, classes=classes)
        return self._model.readout([hidden], [spec])[0]

    def _part(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return done


def _likeliest(by_class: Tensor, of_all: Tensor, classes: Tensor) -> Tensor:
    """[C]: the likeliest token of each position's class, of all tokens where the class is -1."""
    return torch.where(classes < 0, of_all, by_class.gather(1, classes.clamp(min=0)[:, None])[:, 0])


def timed(work: Callable[[int], None]) -> Callable[[int], tuple[float, float]]:
    """Seconds on the clock, and of the processors."""

    def seconds(round_number: int) -> tuple[float, float]:
        began, worked = time.perf_counter(), time.process_time()
        work(round_number)
        return time.perf_counter() - began, time.process_time() - worked

    return seconds


@torch.inference_mode()
def measure(model: PackedModel, compiled: Compiled, rounds: int) -> dict[str, Any]:
    """Medians of both steps and of the parts, and the ratios of the steps as median, least and greatest."""
    steps = Steps(model, compiled)
    contenders = {"plain": steps.plain, "constrained": steps.constrained, "plain readout": steps.plain_readout}
    runs = alternate({name: timed(work) for name, work in contenders.items()}, rounds)
    clock, processors = ({name: [run[kind] for run in own] for name, own in runs.items()} for kind in (0, 1))
    ratios = {}
    for kind, seconds in (("clock", clock), ("processors", processors)):
        ratio = times_as_fast(seconds["plain"], seconds["constrained"])
        assert ratio is not None, "both were run in every round"
        ratios[kind] = [ratio.median, *ratio.extremes]
    return {
        "seconds": {name: statistics.median(values) for name, values in clock.items()},
        "parts": {name: statistics.median(values[1:]) for name, values in steps.seconds.items()},
        "constrained over plain": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    parser.add_argument("--longest-title", type=int, help="bounds a string, which divides tokens by their characters")
    parser.add_argument("--dtype", choices=["bfloat16", "float32", "int8", "int4"], action="append")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    status = library.status()
    if bindings.kernels() is None:
        raise SystemExit(f"there are no kernels to time: {status.reason}")
    compiled = compile_schema(vocabulary(arguments.vocab), arguments.longest_title)
    automaton, classes = compiled.automaton, compiled.classes
    print(
        f"kernels: {status.tier}, {status.threads} threads; vocabulary {arguments.vocab:,}, {arguments.rounds} rounds"
    )
    print(
        f"{automaton.states} states, {len(automaton.edge_target)} edges, {classes.count} classes of which "
        f"{len(classes.heavy)} heavy, {len(classes.light_tokens):,} light tokens; {compiled.nbytes / 1e6:.1f} MB; "
        + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in compiled.seconds.items())
    )
    results: dict[str, Any] = {"compile seconds": compiled.seconds, "bytes": compiled.nbytes}
    with tempfile.TemporaryDirectory() as folder:
        found = checkpoint.read(random_checkpoint(Path(folder), vocab_size=arguments.vocab, **SHAPE))
        formats: list[Format] = arguments.dtype or [f for f in ("bfloat16", "float32", "int8") if f in FORMATS]
        for format in formats:
            results[format] = row = measure(load_packed(found, format), compiled, arguments.rounds)
            parts = {**{f"{name} step": row["seconds"][name] for name in ("plain", "constrained")}, **row["parts"]}
            parts["plain readout"] = row["seconds"]["plain readout"]
            times = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in parts.items())
            more = "; ".join(
                f"{ratio - 1:+.1%} ({least - 1:+.1%} to {greatest - 1:+.1%}) by the {kind}"
                for kind, (ratio, least, greatest) in row["constrained over plain"].items()
            )
            print(f"{format}: {more}; ms: {times}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
