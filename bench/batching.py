"""Many requests in one forward against the same requests taken in turns, and against what the machine allows.

    python -m bench.batching                      # all cases; 24 GB of memory, about half an hour
    python -m bench.batching --case decisions --dtype int8 --rounds 7
    python -m bench.batching --case sudoku
    python -m bench.batching --case modes --dtype int4 --clients 1 --clients 16     # 5 GB while weights are packed

Both sides are the same scheduler on the same engine: in turns it is held to one request a forward. Rounds alternate.
The bound is what bytes and products allow: a forward takes the longer of reading its weights once, at the bandwidth
measured here, and of its multiply-adds, at the peak measured here; of experts those are read that some row chooses, at
random. It leaves out activations, caches, and everything that is no product. The Sudoku model is so small that one
canvas is bound by products already; its bound is what batches would gain if they took nothing beside the model's own
forwards and readouts.

The case ``modes`` is another: on one full-size layer, canvases in 4 and 12 steps and drafts against token after token,
at each number of clients. Answers are one canvas of 32 tokens, so that no way writes what is thrown away. Weights are
random: drafts do not stand, and nothing is said of how good answers are.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint, write_letters_tokenizer

from bench.denoising_step import SHAPE
from bench.sudoku_end_to_end import mixed_boards
from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.scheduler import Scheduler
from redraft.engine.task import Runnable
from redraft.errors import counted
from redraft.kernels import library
from redraft.kernels.int4 import GROUP
from redraft.kernels.packed import Format
from redraft.loading import load
from redraft.measure.modes import Question, Settings, compare, crossovers, ways
from redraft.measure.peak import multiply_adds_per_second, step_multiply_adds
from redraft.measure.timing import Spread, alternate, times_as_fast
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.diffusion_gemma.packed import matrices, packed_model
from redraft.models.gemma.attention import AttentionSpec
from redraft.models.packed import PackedModel
from redraft.models.recipes import made_of
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.choose import choose
from redraft.train.recipes.sudoku import layout

_BYTES: dict[Format, float] = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.5 + 4 / GROUP}
_OPTIONS = ("yes", "no")
CASES = ("decisions", "canvases", "middling", "sudoku", "modes")
_CLIENTS, _ANSWER = (1, 4, 16, 64), 32


@dataclass(frozen=True)
class Rows:
    """One request's part of a forward: rows that are encoded, and the canvas after them."""

    encoded: int
    canvas: int


@dataclass(frozen=True)
class Outcome:
    """One case: how many times as fast the batch is, and could be at most."""

    name: str
    times: Spread
    bound: float | None
    against: str = "in turns"

    def line(self) -> str:
        """The case in words."""
        low, high = self.times.extremes
        bound = "" if self.bound is None else f", bound {self.bound:.2f} ({self.times.median / self.bound:.0%} of it)"
        return f"{self.name}: {self.times.median:.2f} times as fast as {self.against} ({low:.2f} to {high:.2f}){bound}"


def full_size(layers: int, vocabulary: int = LETTERS_SIZE, context: int = 1024) -> DiffusionGemmaConfig:
    """Layers of the released model's size with random weights, and a small vocabulary."""
    sliding = AttentionSpec(256, 8, 1024, 10_000.0)
    full = AttentionSpec(512, 2, None, 1_000_000.0, 0.25)
    return DiffusionGemmaConfig(
        vocab_size=vocabulary,
        hidden_size=2816,
        intermediate_size=2112,
        num_attention_heads=16,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        layers=(*[sliding] * (layers - 1), full),
        context_length=context,
    )


def engine_of(config: DiffusionGemmaConfig, format: Format, folder: Path) -> Engine:
    """An engine with random weights, packed at once and kept nowhere."""
    torch.manual_seed(0)
    model = DiffusionGemma(config)
    with torch.no_grad():
        for layer in model.layers:
            # With plain norms attention is so sharp that it is not what a trained model's is.
            layer.self_attn.q_norm.weight.fill_(0.1)
    packed = packed_model(model, made_of(matrices(config, format), model.state_dict()), format)
    for module in (*model.layers, model.self_conditioning):
        for parameter in module.parameters():
            parameter.data = torch.empty(0)
    write_letters_tokenizer(folder, config.vocab_size)
    return Engine(packed, ChatTokenizer.from_folder(folder))


def bandwidth() -> float:
    """Bytes a second that all threads together read from memory: the median of a few sums over a gigabyte."""
    values = torch.ones(1 << 28)
    torch.set_num_threads(library.status().threads or 1)
    samples = []
    for _ in range(5):
        began = time.perf_counter()
        values.sum()
        samples.append(values.nbytes / (time.perf_counter() - began))
    return statistics.median(samples)


def bound(engine: Engine, config: DiffusionGemmaConfig, requests: Sequence[Rows]) -> float:
    """Compute how many times as fast one forward for all requests can be as one for each."""
    model = engine.model
    assert isinstance(model, PackedModel), "made by engine_of"
    format = model.format
    speed, peaks = bandwidth(), {format: multiply_adds_per_second(format)}
    unpacked: Format = "float32" if format == "float32" else "bfloat16"
    table: Format = "int8" if format == "int4" else format
    for other in (unpacked, table, "float32"):
        peaks.setdefault(other, multiply_adds_per_second(other))

    def seconds(batch: Sequence[Rows]) -> float:
        rows = sum(one.encoded + one.canvas for one in batch)
        products = 0.0
        for one in batch:
            for kind, count in step_multiply_adds(model, one.encoded, one.canvas).items():
                products += count / peaks.get(kind, peaks[format])
            per_row = step_multiply_adds(model, 0, 1)[format]
            products += one.encoded * per_row / peaks[format]
        return max(products, weight_bytes(config, format, table, rows) / speed)

    return sum(seconds([one]) for one in requests) / seconds(requests)


def weight_bytes(config: DiffusionGemmaConfig, format: Format, table: Format, rows: int) -> float:
    """Bytes of the weights that a forward of so many rows reads."""
    hidden, chosen = config.hidden_size, config.top_k_experts / config.num_experts
    experts = config.num_experts * (1 - (1 - chosen) ** rows) * 3 * hidden * config.moe_intermediate_size
    total = config.vocab_size * hidden * _BYTES[table] * 2 + 3 * hidden * config.intermediate_size * _BYTES[format]
    for spec in config.layers:
        queries, kv = config.num_attention_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        dense = hidden * (2 * queries + 2 * kv) + 3 * hidden * config.intermediate_size
        total += (dense + experts) * _BYTES[format] + hidden * config.num_experts * 4
    return total


def measured(engine: Engine, requests: Sequence[Runnable[Any]], rounds: int, rows: int) -> Spread:
    """Measure how many times as fast all requests together are in batches of ``rows`` rows as in turns."""
    results = alternate(
        {
            "batch": lambda _: run_together(engine, requests, rows),
            "turns": lambda _: run_together(engine, requests, 1),
        },
        rounds,
    )
    found = times_as_fast(results["batch"], results["turns"])
    assert found is not None, "there are rounds"
    return found


def beside_the_model(engine: Engine, requests: Sequence[Runnable[Any]], rounds: int, rows: int) -> float:
    """Measure how many times as fast batches would be as turns if they took nothing beside the model."""
    seconds, model = [0.0], engine.model

    def counted_in(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                seconds[0] += time.perf_counter() - began

        return call

    plain = {name: getattr(model, name) for name in ("forward", "readout")}
    ratios = []
    for _ in range(rounds):
        whole = run_together(engine, requests, 1)
        for name, method in plain.items():
            setattr(model, name, counted_in(method))
        seconds[0] = 0.0
        run_together(engine, requests, rows)
        for name, method in plain.items():
            setattr(model, name, method)
        ratios.append(whole / seconds[0])
    return statistics.median(ratios)


def run_together(engine: Engine, requests: Sequence[Runnable[Any]], max_batch_rows: int) -> float:
    """Run all requests at once; return the seconds that it took."""
    scheduler = Scheduler(engine.runtime, max_concurrency=len(requests), max_batch_rows=max_batch_rows)
    try:
        began = time.perf_counter()
        for handle in [scheduler.submit(request, client=str(i)) for i, request in enumerate(requests)]:
            handle.result()
        return time.perf_counter() - began
    finally:
        scheduler.close()


def decisions(format: Format, rounds: int, rows: int, folder: Path) -> list[Outcome]:
    """16 one-step decisions on full-size layers."""
    found = []
    for layers in (1, 2):
        config = full_size(layers)
        engine = engine_of(config, format, folder)
        for length in (16, 64):
            requests = [
                choose(engine.runtime, _tokens(length, seed), _OPTIONS, seed=seed, canvas_length=16)
                for seed in range(16)
            ]
            name = f"{format}, {layers} full-size layer{'s' * (layers > 1)}, 16 decisions after {length} tokens"
            times = measured(engine, requests, rounds, rows)
            found.append(Outcome(name, times, bound(engine, config, [Rows(length, 16)] * 16)))
        engine.close()
    return found


def canvases(format: Format, rounds: int, rows: int, folder: Path) -> list[Outcome]:
    """Four canvases of 256 on full-size layers."""
    config = full_size(2)
    engine = engine_of(config, format, folder)
    requests = [_canvas(engine, _tokens(32, seed), seed, steps=3) for seed in range(4)]
    times, best = measured(engine, requests, rounds, rows), bound(engine, config, [Rows(0, 256)] * 4)
    engine.close()
    return [Outcome(f"{format}, 2 full-size layers, 4 canvases of 256", times, best)]


def middling(format: Format, rounds: int, rows: int, folder: Path) -> list[Outcome]:
    """Canvases of 256 at hidden 512, 8 layers, vocabulary 32,768."""
    path = random_checkpoint(folder, vocab_size=32_768, letters=True, **SHAPE)
    engine, found = load(path, dtype=format), []
    for clients in (2, 4, 8, 16):
        requests = [_canvas(engine, _tokens(64, seed), seed, steps=4) for seed in range(clients)]
        name = f"{format}, hidden 512, 8 layers, vocabulary 32,768, {clients} canvases of 256"
        found.append(Outcome(name, measured(engine, requests, rounds, rows), None))
    engine.close()
    return found


def sudoku(format: Format, rounds: int, rows: int, folder: Path) -> list[Outcome]:
    """16 Sudokus on the bundled model."""
    engine = load("sudoku", dtype=format)
    prompts = layout.prompt_tokens(mixed_boards(16, 0))
    requests = [
        Generate(engine.runtime, engine.request(prompt.tolist(), seed=seed)) for seed, prompt in enumerate(prompts)
    ]
    times, best = measured(engine, requests, rounds, rows), beside_the_model(engine, requests, rounds, rows)
    engine.close()
    return [Outcome(f"{format}, 16 Sudokus", times, best)]


def modes(
    format: Format,
    rounds: int,
    rows: int,
    folder: Path,
    clients: Sequence[int] = _CLIENTS,
    config: DiffusionGemmaConfig | None = None,
) -> list[Outcome]:
    """Every way to write on one full-size layer, against token after token."""
    shape = full_size(1) if config is None else config
    engine = engine_of(replace(shape, canvas_length=_ANSWER), format, folder)
    engine.model.defaults = replace(engine.model.defaults, end_token_ids=())
    questions = tuple(Question(tuple(_tokens(16, seed))) for seed in range(4))
    settings = Settings(questions, _ANSWER, None, tuple(clients), rounds, seed=0)
    figures = compare(engine, ways(engine.model.modes, (4, 12)), settings).figures
    engine.close()
    for line in crossovers(figures):
        print(line)
    plain = {one.clients: one.tokens_per_second for one in figures if one.way.mode == "autoregressive"}
    found = []
    for one in figures:
        if one.way.mode != "autoregressive":
            pairs = zip(one.tokens_per_second.values, plain[one.clients].values, strict=True)
            name = f"{format}, 1 full-size layer, {one.way.name}, {counted(one.clients, 'client')}"
            times = Spread(tuple(own / other for own, other in pairs))
            found.append(Outcome(name, times, None, "token after token"))
    return found


def _tokens(count: int, seed: int) -> list[int]:
    return torch.randint(16, 272, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def _canvas(engine: Engine, prompt: list[int], seed: int, steps: int) -> Runnable[Any]:
    """A canvas that takes all its steps: random weights are not sure of anything."""
    length = engine.model.config.canvas_length
    request = engine.request(prompt, seed=seed, max_denoising_steps=steps, max_tokens=1, canvas_length=length)
    return Generate(engine.runtime, request)


_FORMATS: dict[str, tuple[Format, ...]] = {
    "decisions": ("bfloat16", "int8"),
    "canvases": ("bfloat16", "int8", "int4"),
    "middling": ("float32", "bfloat16", "int8"),
    "sudoku": ("float32", "bfloat16", "int8"),
    "modes": ("int4",),
}
_RUN = {"decisions": decisions, "canvases": canvases, "middling": middling, "sudoku": sudoku, "modes": modes}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; by default all")
    parser.add_argument("--dtype", action="append", help="may be repeated; by default those of the case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch at most")
    parser.add_argument("--clients", type=int, action="append", help="of the case modes; by default 1, 4, 16 and 64")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    status = library.status()
    print(f"kernels: {status.tier}, {status.threads} threads; medians of {arguments.rounds} rounds")
    rows = []
    for case in arguments.case or CASES:
        for format in arguments.dtype or _FORMATS[case]:
            with tempfile.TemporaryDirectory() as folder:
                more = {"clients": arguments.clients} if case == "modes" and arguments.clients else {}
                for outcome in _RUN[case](format, arguments.rounds, arguments.rows, Path(folder), **more):
                    print(outcome.line(), flush=True)
                    rows.append({"name": outcome.name, **outcome.times.as_object(), "bound": outcome.bound})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
