"""Measures what one graphics card makes of the large model, in ten minutes: random weights, made on the card.

    script/gpu                        # all of it, on cuda:0: tables, and gpu.json
    script/gpu --device cuda:1 --json out.json --contexts 512 4096
    script/gpu --dry-run              # the same code on a tiny model on the CPU, to see that it works: no times

The weights are random and say nothing of what answers are worth; each step computes what a real one does, and no canvas
converges. A step is timed from one read of the host to the next. The bandwidth that shares are of is that of a copy
measured on the same card. Where there is no card nothing is timed: the command says so and fails.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import LETTERS_SIZE, write_letters_tokenizer

from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.runtime import advance, start
from redraft.engine.task import Progress
from redraft.errors import RedraftError
from redraft.layers import grouped
from redraft.layers.experts import Experts
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.loading import check_device
from redraft.models.base import DEVICE_PREFILL_CHUNK, PREFILL_CHUNK, GenerationMode
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.published import known
from redraft.models.tokenizer import ChatTokenizer

PUBLISHED = "google/diffusiongemma-26B-A4B-it"
NO_CARD = "no speed was measured: this is a dry run on the CPU, which shows that the measurement works and nothing else"


@dataclass(frozen=True)
class Asked:
    """The work of a run."""

    canvases: Sequence[int] = (1, 2, 4, 8)
    contexts: Sequence[int] = (512, 4096, 32_768)
    steps: int = 16
    tokens: int = 64
    """Tokens of a client in the autoregressive mode."""
    clients: Sequence[int] = (1, 8)


DRY = Asked((1, 2), (32,), 3, 3, (1, 2))


def tiny(config: DiffusionGemmaConfig) -> DiffusionGemmaConfig:
    """A model of the same build that a laptop computes in no time."""
    layers = (replace(config.layers[0], kv_heads=1, head_dim=16, window=16), config.layers[-1])
    layers = (layers[0], replace(layers[1], kv_heads=1, head_dim=16))
    return replace(
        config, vocab_size=LETTERS_SIZE, hidden_size=32, intermediate_size=48, num_attention_heads=2, num_experts=8,
        top_k_experts=2, moe_intermediate_size=16, layers=layers, context_length=512, canvas_length=16,
    )  # fmt: skip


@torch.no_grad()
def random_model(config: DiffusionGemmaConfig, device: str, dtype: torch.dtype) -> DiffusionGemma:
    """A model whose weights are drawn on the device. Routers lean to some experts, as trained ones do."""
    with torch.device("meta"):
        model = DiffusionGemma(config)
    model = model.to(dtype).to_empty(device=device)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.1 if "q_norm" in name else 1.0)
            continue
        # Experts one by one: a float32 copy of all of them is not wanted.
        for part in parameter if parameter.ndim == 3 else [parameter]:
            part.normal_(std=part.shape[-1] ** -0.5)
        if "router" in name:
            parameter.mul_(torch.linspace(0.5, 1.5, len(parameter), device=device, dtype=dtype)[:, None])
    for buffer in model.buffers():
        buffer.fill_(1.0)
    return model.eval()


class Card:
    """The device, and what it is timed with."""

    def __init__(self, device: str, dry: bool) -> None:
        self.device, self.dry = device, dry
        self.cuda = torch.device(device).type == "cuda"

    def describe(self) -> dict[str, Any]:
        """Versions, and the card."""
        found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": self.device}
        if self.cuda:
            card = torch.cuda.get_device_properties(self.device)
            capability = f"{card.major}.{card.minor}"
            found |= {"card": card.name, "bytes": card.total_memory, "capability": capability}
        return found

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], rounds: int = 5) -> float | None:
        """The median time of some work; None in a dry run."""
        times = []
        for _ in range(1 if self.dry else rounds + 1):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begun)
        return None if self.dry else statistics.median(times[1:])

    def bandwidth(self) -> float | None:
        """Bytes a second of a copy, read and written."""
        size = 1 << 12 if self.dry else 1 << 30
        one = torch.empty(size, dtype=torch.uint8, device=self.device)
        other = torch.empty_like(one)
        took = self.seconds(lambda: other.copy_(one), 10)
        return None if took is None else 2 * size / took

    def peak_bytes(self) -> int | None:
        """The largest memory that was taken since the last call."""
        if not self.cuda:
            return None
        found = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return found


@torch.no_grad()
def checked(model: DiffusionGemma) -> dict[str, float]:
    """The largest differences of what was written for devices from what it stands for, at full shapes: experts against
    a loop over them, a readout against one of float32 on the CPU."""
    config, device = model.config, model.device
    experts = next(module for module in model.modules() if isinstance(module, Experts))
    rows = torch.randn(config.canvas_length, config.hidden_size, device=device, dtype=model.kv_dtype)
    chosen = torch.rand(len(rows), config.num_experts, device=device).topk(config.top_k_experts).indices
    weights = torch.rand(chosen.shape, device=device)
    looped = experts._chosen_experts(rows, weights, chosen)
    found = grouped.routed(rows, weights, chosen, experts.gate_up_proj, experts.down_proj)
    largest = looped.abs().amax()
    few = torch.randn(8, config.hidden_size, device=device)
    head = model.head()
    there = head.read(few, 0.8, torch.rand(8, dtype=torch.float64), self_conditioning=False)
    here = VocabularyHead(head.table.float().cpu(), head.softcap, head.embedding_scale).read(
        few.cpu(), 0.8, None, self_conditioning=False
    )
    return {
        "experts, relative": float((found - looped).abs().amax() / largest),
        "entropy, nats": float((there.entropy.cpu() - here.entropy).abs().amax()),
    }


def prompt(config: DiffusionGemmaConfig, length: int) -> list[int]:
    """Tokens that are text."""
    first, last = (300, config.vocab_size) if config.vocab_size > LETTERS_SIZE else (20, 220)
    drawn: list[int] = torch.randint(first, last, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return drawn


def batch(
    engine: Engine, card: Card, tokens: list[int], count: int, steps: int, mode: GenerationMode, length: int
) -> tuple[list[float], int]:
    """Answer ``count`` requests together -> seconds of each forward and what it takes to the next, and the tokens."""
    runtime = engine.runtime
    tasks = [
        Progress(
            Generate(
                runtime,
                engine.request(tokens, max_tokens=length, seed=seed, mode=mode, max_denoising_steps=steps)
                if mode == "diffusion"
                else engine.request(tokens, max_tokens=length, seed=seed, mode=mode, ignore_eos=True),
            ).task()
        )
        for seed in range(count)
    ]
    for task in tasks:
        start(task)
    times: list[float] = []
    while alive := [task for task in tasks if not task.ended]:
        begun = time.perf_counter()
        advance(runtime, alive)
        times.append(time.perf_counter() - begun)
    card.wait()
    return times, sum(task.value.usage.completion_tokens for task in tasks)


def steps(engine: Engine, card: Card, asked: Asked, bandwidth: float | None) -> list[dict[str, Any]]:
    """Denoising steps at each number of canvases and each context, and whole canvases."""
    weights = sum(part.nbytes for part in engine.model.parameters())  # type: ignore[attr-defined]
    rows = []
    for context in asked.contexts:
        tokens, length = prompt(engine.model.config, context), engine.model.config.canvas_length  # type: ignore[arg-type]
        batch(engine, card, tokens, 1, 2, "diffusion", length)
        for count in asked.canvases:
            row: dict[str, Any] = {"context": context, "canvases": count}
            card.peak_bytes()
            try:
                times, written = batch(engine, card, tokens, count, asked.steps, "diffusion", length)
            except (RedraftError, RuntimeError) as error:
                rows.append({**row, "error": str(error).splitlines()[0][:200]})
                continue
            if not card.dry:
                step = statistics.median(times[-asked.steps + 1 :])
                row |= {"ms a step": 1e3 * step, "tokens/s": written / sum(times), "canvases, s": sum(times)}
                row["share of bandwidth"] = None if bandwidth is None else weights / step / bandwidth
            rows.append({**row, "forwards": len(times), "peak bytes": card.peak_bytes()})
    return rows


def modes(engine: Engine, card: Card, asked: Asked) -> list[dict[str, Any]]:
    """The same weights token after token, the baseline."""
    rows, tokens = [], prompt(engine.model.config, asked.contexts[0])  # type: ignore[arg-type]
    for count in asked.clients:
        batch(engine, card, tokens, count, 1, "autoregressive", 2)
        times, written = batch(engine, card, tokens, count, 1, "autoregressive", asked.tokens)
        row: dict[str, Any] = {"clients": count, "forwards": len(times)}
        if not card.dry:
            row |= {"ms a token": 1e3 * statistics.median(times), "tokens/s": written / sum(times)}
        rows.append(row)
    return rows


def prefills(engine: Engine, card: Card, context: int) -> list[dict[str, Any]]:
    """A prompt in chunks of the CPU's size and of a device's."""
    rows = []
    for chunk in (PREFILL_CHUNK, DEVICE_PREFILL_CHUNK):
        other = Engine(engine.model, engine.runtime.tokenizer, prefill_chunk=chunk)
        times, _ = batch(other, card, prompt(engine.model.config, context), 1, 1, "diffusion", 1)  # type: ignore[arg-type]
        row: dict[str, Any] = {"context": context, "chunk": chunk, "forwards": len(times)}
        rows.append(row if card.dry else {**row, "s, with one step": sum(times)})
    return rows


def counts(engine: Engine, card: Card, asked: Asked) -> dict[str, Any]:
    """Kernels and host reads of a step, as the profiler and torch's own watch of synchronisations count them."""
    tokens, length = prompt(engine.model.config, asked.contexts[0]), engine.model.config.canvas_length  # type: ignore[arg-type]
    if not card.cuda:
        return {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            batch(engine, card, tokens, 1, asked.steps, "diffusion", length)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        times, _ = batch(engine, card, tokens, 1, asked.steps, "diffusion", length)
    kernels = sum(event.count for event in profile.key_averages())
    return {"kernels a forward": kernels / len(times), "synchronisations a step": len(said) / asked.steps}


def measure(device: str, asked: Asked, *, dry: bool, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Run everything; with ``dry`` on a tiny model, without a time."""
    published = known(PUBLISHED)
    assert published is not None, "the configuration is part of the package"
    config = published[0].config
    assert isinstance(config, DiffusionGemmaConfig), "and is of this family"
    config, card = tiny(config) if dry else config, Card(device, dry)
    model = random_model(config, device, torch.float32 if dry else dtype)
    with tempfile.TemporaryDirectory() as folder:
        write_letters_tokenizer(Path(folder), config.vocab_size)
        tokenizer = ChatTokenizer.from_checkpoint(Path(folder))
    chunk = 16 if dry else DEVICE_PREFILL_CHUNK
    bandwidth = card.bandwidth()
    with Engine(model, tokenizer, prefill_chunk=chunk) as engine:
        return {
            "measured": not dry,
            "note": NO_CARD if dry else "random weights: speeds, nothing of what answers are worth",
            "machine": card.describe(),
            "dtype": str(model.kv_dtype).removeprefix("torch."),
            "weights, bytes": sum(part.nbytes for part in model.parameters()),
            "copy, bytes/s": bandwidth,
            "grouped products": grouped.has_grouped(torch.empty(1, device=device, dtype=model.kv_dtype)),
            "differences": checked(model),
            "counts": counts(engine, card, asked),
            "steps": steps(engine, card, asked, bandwidth),
            "token after token": modes(engine, card, asked),
            "prompts": prefills(engine, card, min(4096, max(asked.contexts))),
        }


def table(found: dict[str, Any]) -> str:
    """The results as text."""
    lines = [found["note"]]
    for title, rows in found.items():
        if not isinstance(rows, list):
            if title not in ("note", "measured"):
                lines.append(f"{title}: {json.dumps(rows)}")
            continue
        lines.append(f"\n{title}")
        for row in rows:
            each = ((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in row.items())
            lines.append("  " + ", ".join(f"{name} {value}" for name, value in each))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or say why not; 0, or 2 where nothing was measured that was asked for."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="script/gpu", description=__doc__, formatter_class=raw)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--contexts", type=int, nargs="+", default=list(Asked.contexts))
    parser.add_argument("--canvases", type=int, nargs="+", default=list(Asked.canvases))
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU; no time is taken")
    given = parser.parse_args(arguments)
    device, asked = given.device, Asked(canvases=given.canvases, contexts=given.contexts)
    if given.dry_run:
        device, asked = "cpu", DRY
    else:
        try:
            check_device(device)
        except RedraftError as error:
            print(f"nothing was measured: {error}. --dry-run shows that the measurement works", file=sys.stderr)
            return 2
        if torch.device(device).type == "cpu":
            print("nothing was measured: the CPU is no graphics card; redraft bench measures it", file=sys.stderr)
            return 2
    found = measure(device, asked, dry=given.dry_run)
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
