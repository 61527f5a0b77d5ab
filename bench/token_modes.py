"""Whether the modes that write token after token keep what they promise, on many random requests.

    python -m bench.token_modes MODEL                    # 2,000 constrained answers, 200 prompts compared
    python -m bench.token_modes sudoku --answers 0       # only that drafts change no token

Constrained answers: random JSON schemas, at the smallest budget that fits and a little above it, greedy and sampled, by
turns autoregressive and speculative; each is checked by ``jsonschema``. Compared: random prompts, greedy and sampled,
whose speculative answers are to be the autoregressive ones, token for token. Exit code 1 where one answer is wrong.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema

import redraft
from redraft.api import Engine
from redraft.errors import ConstraintError
from redraft.models.base import GenerationMode

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


def compared(engine: Engine, prompts: Sequence[Sequence[int]], max_tokens: int = 24) -> Found:
    """Answer each prompt in both modes, greedily and sampled."""
    found = Found()
    for number, prompt in enumerate(prompts):
        for temperature in (0, 1):
            given: dict[str, Any] = {"temperature": temperature, "seed": number, "max_tokens": max_tokens}
            tokens, drafted = (engine.generate(prompt, mode=mode, **given) for mode in MODES)
            found.answers["compared"] += 1
            found.forwards += drafted.usage.forwards
            found.accepted += drafted.usage.accepted_drafts
            found.tokens += len(drafted.token_ids)
            if tokens.token_ids != drafted.token_ids:
                found.wrong.append(
                    f"prompt {number}, temperature {temperature}: {tokens.token_ids} {drafted.token_ids}"
                )
    return found


def main() -> None:
    """Run both, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=200)
    given = parser.parse_args()
    engine = redraft.load(given.model, dtype=given.dtype)
    draw = random.Random(1)
    wrong = 0
    for name, found in (
        ("constrained", constrained(engine, given.answers)),
        ("compared", compared(engine, [random_prompt(draw, engine) for _ in range(given.prompts)])),
    ):
        wrong += len(found.wrong)
        print(
            f"{name}: {dict(found.answers)}, wrong {len(found.wrong)}; {found.tokens} tokens in {found.forwards} "
            f"forwards, {found.accepted} drafted tokens accepted"
        )
        for line in found.wrong[:10]:
            print("   ", line)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
