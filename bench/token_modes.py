"""Checks on many random requests that the modes which write token after token keep what they promise.

    python -m bench.token_modes MODEL                    # 2,000 constrained answers, 200 prompts compared
    python -m bench.token_modes sudoku --answers 0 --prompts-of sudoku       # only that drafts change no token
    python -m bench.token_modes MODEL --answers 0 --prompts-of text --tokens 12 --canvas-length 16 --steps 2
    python -m bench.token_modes gemma3-270m --dtype bfloat16 --answers 0 --prompts-of text --draft int4 --tokens 12

Constrained answers: random JSON schemas, at the smallest budget that fits and a little above it, greedy and sampled, by
turns autoregressive and speculative; each is checked by ``jsonschema``. Compared: random prompts, Sudokus, or questions
about texts, greedy and sampled, whose speculative answers are to be the autoregressive ones, token for token. Exit code
1 where one answer is wrong.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import jsonschema
from tests.gguf_files import gemma3_path

import redraft
from redraft.api import Engine
from redraft.engine.runtime import Prompt
from redraft.errors import ConstraintError
from redraft.models import checkpoint
from redraft.models.base import GenerationMode
from redraft.models.checkpoint import DType
from redraft.models.quantize import FORMATS, quantize
from redraft.train.recipes.pocket.records import items
from redraft.train.recipes.pocket.snippets import Split
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.puzzles import generate

GEMMA = "gemma3-270m"
"""The name of the tests' real Gemma."""
PROMPTS = ("random", "sudoku", "text")
MODES: tuple[GenerationMode, ...] = ("autoregressive", "speculative")
_NAMES = ("a", "b", "name", "value", "no")


@dataclass
class Found:
    """What came of many requests."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    forwards: int = 0
    accepted: int = 0
    tokens: int = 0


def random_schema(draw: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema whose texts are short at least."""
    kinds = ["integer", "string", "boolean", "enum", "number", *(["object", "array"] if depth else [])]
    match draw.choice(kinds):
        case "integer":
            low = draw.randint(-50, 50)
            return draw.choice([{"type": "integer"}, {"type": "integer", "minimum": low, "maximum": low + 99}])
        case "number":
            return {"type": "number"}
        case "string":
            return {"type": "string", "minLength": draw.randint(0, 2), "maxLength": draw.randint(2, 6)}
        case "boolean":
            return {"type": "boolean"}
        case "enum":
            return {"enum": draw.sample(["x", "yes", None, 3, "é", True, [1]], draw.randint(1, 4))}
        case "array":
            low = draw.randint(0, 2)
            inner = random_schema(draw, depth - 1)
            return {"type": "array", "items": inner, "minItems": low, "maxItems": low + draw.randint(0, 2)}
    names = draw.sample(_NAMES, draw.randint(1, 3))
    required = names[: draw.randint(0, len(names))]
    inner = {name: random_schema(draw, depth - 1) for name in names}
    return {"type": "object", "properties": inner, "required": required, "additionalProperties": False}


def random_prompt(draw: random.Random, engine: Engine) -> list[int]:
    """Some tokens that are text."""
    vocabulary = engine.runtime.constraints.vocabulary
    texts = [token for token in range(vocabulary.size) if vocabulary.has_text[token]]
    return [draw.choice(texts) for _ in range(draw.randint(1, 40))]


def prompts(kind: str, count: int, engine: Engine) -> list[Prompt]:
    """``count`` prompts of one of the kinds in ``PROMPTS``, the same each time."""
    if kind == "sudoku":
        boards = generate(count, givens=(24, 50), seed=7).boards
        return [cast(Prompt, row) for row in layout.prompt_tokens(boards).tolist()]
    if kind == "text":
        asked = [item["prompt"] for item in islice(_questions(), count)]
        if engine.tokenizer.template is not None:
            return asked
        return ["\n\n".join(message["content"] for message in messages) + "\n\n" for messages in asked]
    draw = random.Random(1)
    return [random_prompt(draw, engine) for _ in range(count)]


def constrained(engine: Engine, count: int, seed: int = 0) -> Found:
    """Write ``count`` answers under random schemas, four under each."""
    draw, found = random.Random(seed), Found()
    while found.answers.total() < count:
        schema = random_schema(draw)
        constraint = redraft.JSONSchema(schema)
        try:
            fewest = engine.min_tokens(constraint)
        except ConstraintError:
            found.answers["unsupported"] += 0
            continue
        for number in range(min(4, count - found.answers.total())):
            mode = MODES[number % 2]
            budget = fewest + (number // 2) * draw.randint(0, 9)
            given: dict[str, Any] = {"temperature": draw.choice([0, 0.5, 1, 2]), "seed": draw.randrange(1 << 32)}
            if draw.random() < 0.3:
                given |= {"top_p": 0.7, "presence_penalty": 0.5}
            prompt = random_prompt(draw, engine)
            result = engine.generate(prompt, mode=mode, constraint=constraint, max_tokens=budget, **given)
            found.answers[mode] += 1
            found.forwards, found.accepted = (
                found.forwards + result.usage.forwards,
                found.accepted + result.usage.accepted_drafts,
            )
            found.tokens += len(result.token_ids)
            fault = _fault(schema, result, budget)
            if fault:
                found.wrong.append(f"{mode} {schema} {given} {budget}: {result.text!r}: {fault}")
    return found


def _fault(schema: dict[str, Any], result: redraft.Result, budget: int) -> str:
    if len(result.token_ids) > budget or result.finish_reason != "stop":
        return f"{len(result.token_ids)} tokens, {result.finish_reason}"
    try:
        jsonschema.validate(json.loads(result.text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    return ""


def _questions() -> Iterator[dict[str, Any]]:
    return (item for item in items(1, Split.templates) if item["verb"] == "generate")


def compared(
    engine: Engine, asked: Sequence[Prompt], max_tokens: int = 24, temperatures: Sequence[float] = (0, 1), **drafts: Any
) -> Found:
    """Answer each prompt in both modes, greedily and sampled; ``drafts``: parameters of the drafts alone."""
    found = Found()
    for number, prompt in enumerate(asked):
        for temperature in temperatures:
            given: dict[str, Any] = {"temperature": temperature, "seed": number, "max_tokens": max_tokens}
            tokens = engine.generate(prompt, mode="autoregressive", **given)
            drafted = engine.generate(prompt, mode="speculative", **given, **drafts)
            found.answers["compared"] += 1
            found.forwards += drafted.usage.forwards
            found.accepted += drafted.usage.accepted_drafts
            found.tokens += len(drafted.token_ids)
            if tokens.token_ids != drafted.token_ids:
                found.wrong.append(
                    f"prompt {number}, temperature {temperature}: {tokens.token_ids} {drafted.token_ids}"
                )
    return found


@contextmanager
def loaded(model: str, dtype: DType, draft: str | None) -> Iterator[Engine]:
    """Load a model, and what drafts for it: a checkpoint, or the model itself in the fewer bits that ``draft`` says."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = gemma3_path(folder) if model == GEMMA else model
        if draft in FORMATS:
            small = folder / "draft"
            quantize(checkpoint.read(checkpoint.find(source)), small, draft)
            draft = str(small)
        with redraft.load(source, dtype=dtype, pack_folder=None, draft_model=draft) as engine:
            yield engine


def main() -> None:
    """Run both, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"a checkpoint, or {GEMMA} for the tests' real one")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--draft", help="a draft model: a checkpoint, or int4, int8, bfloat16 for the model itself in it"
    )
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--prompts-of", choices=PROMPTS, default="random")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer that is compared, at most")
    parser.add_argument("--temperature", type=float, action="append", help="may be repeated; by default 0 and 1")
    parser.add_argument("--canvas-length", type=int, help="of drafts")
    parser.add_argument("--steps", type=int, help="of drafts")
    given = parser.parse_args()
    wrong = 0
    with loaded(given.model, given.dtype, given.draft) as engine:
        asked = prompts(given.prompts_of, given.prompts, engine)
        drafts = {"canvas_length": given.canvas_length, "max_denoising_steps": given.steps}
        for name, found in (
            ("constrained", constrained(engine, given.answers)),
            ("compared", compared(engine, asked, given.tokens, given.temperature or (0, 1), **drafts)),
        ):
            wrong += len(found.wrong)
            print(
                f"{name}: {dict(found.answers)}, wrong {len(found.wrong)}; {found.tokens} tokens in {found.forwards} "
                f"forwards, {found.accepted} drafted tokens accepted",
                flush=True,
            )
            for line in found.wrong[:10]:
                print("   ", line)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
