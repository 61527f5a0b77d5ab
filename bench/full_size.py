"""Runs DiffusionGemma at its full size on this machine, with random weights, and measures its memory from outside.

    python -m bench.full_size                              # 26B: 35 GB of disk, 18 GB of memory, most of an hour
    python -m bench.full_size --scale middle               # 0.6B, the same code
    python -m bench.full_size --folder DIR --only write    # then --only pack, --only run: one part after the other
    python -m bench.full_size --log memory.tsv --json out.json

A checkpoint of the shape is written (see ``bench.synthetic``), opened as any is, which packs it by the stream, and
then opened once more in a process of its own that reads a prompt, denoises canvases of a context of 1,024 tokens, and
gives an answer under a constraint, a decision and an edit. This process looks at the other's memory five times a
second, in /proc, and says how much there was in each part; where weights are mapped from their file, what is present of
them counts. What was written is removed at the end, unless a folder is named.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import torch

import redraft
from bench import synthetic
from redraft.canvas.stopping import StableAndConfident
from redraft.constrain.constraint import JSONSchema
from redraft.kernels import bindings, library
from redraft.measure.peak import seconds_at_peak, step_multiply_adds
from redraft.models import checkpoint
from redraft.models.footprint import Use, footprint
from redraft.models.packed import PackedModel

CONTEXT, STEPS, FEW, PEAKS = 1024, 4, 2, 5
LIMIT = 18_000_000_000
PARTS = ("write", "pack", "run")
EVERY = 0.2
MEMBERS = {"name", "yes"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "yes": {"type": "boolean"}},
    "required": sorted(MEMBERS),
    "additionalProperties": False,
}
_FIELDS = {"resident": "VmRSS", "anonymous": "RssAnon", "files": "RssFile"}


@dataclass
class Memory:
    """A process's memory over time, as the kernel tells any other process."""

    log: TextIO | None
    pid: int | None = None
    """None until the process has said who it is."""
    part: str = "start"
    most: dict[str, dict[str, int]] = field(default_factory=dict)
    """The largest resident set of each part with what it was made of, in bytes."""
    peak: int = 0
    """The kernel's own high-water mark."""
    read_again: int = 0
    """Pages that had to be read from disk when they were needed: where they are many, there was too little memory for
    what the process maps, and its resident set says so no more."""
    began: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Take one sample, where there is a process. One that has ended has no memory."""
        if self.pid is None:
            return
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
            # The tenth after the name, which ends at the last bracket.
            self.read_again = int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[9])
        except (OSError, IndexError):
            return
        found = {name: re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE) for name, key in _FIELDS.items()}
        own = {name: int(one[1]) * 1024 for name, one in found.items() if one is not None}
        high = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
        if len(own) < len(_FIELDS) or high is None:
            return
        self.peak = max(self.peak, int(high[1]) * 1024)
        if own["resident"] > self.most.get(self.part, {}).get("resident", 0):
            self.most[self.part] = own
        if self.log is not None:
            seconds = time.monotonic() - self.began
            self.log.write(f"{seconds:.1f}\t{self.part}\t" + "\t".join(str(one) for one in own.values()) + "\n")
            self.log.flush()


@contextmanager
def watched(memory: Memory) -> Iterator[None]:
    """Look at a process again and again, in a thread of this one."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            memory.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_a_process(task: str, folder: Path, log: TextIO | None, python: str) -> dict[str, Any]:
    """Run one of ``TASKS`` in a process of its own; return what it found, and its memory. Raises RuntimeError where it
    fails."""
    command = [python, "-m", "bench.full_size", "--task", task, "--folder", str(folder)]
    found: dict[str, Any] = {}
    memory = Memory(log)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, watched(memory):
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            memory.pid = told.pop("pid", memory.pid)
            memory.look()
            if (part := told.pop("part", None)) is not None:
                memory.part = part
                # At its beginning too: it may be over before anybody looks again.
                memory.look()
            found |= told
    if process.returncode:
        raise RuntimeError(f"{task} of {folder} ended with exit code {process.returncode}")
    return found | {"memory": {"peak": memory.peak, "read again": memory.read_again, "parts": memory.most}}


# ---- what runs in a process of its own


def tell(**found: Any) -> None:
    """Tell the parent that a part begins, or what was found."""
    print(json.dumps(found), flush=True)


def opened(folder: Path) -> redraft.Engine:
    """Open as anybody would; four bits, for small models would be computed in float32."""
    return redraft.load(folder, dtype="int4", memory=LIMIT)


def pack(folder: Path) -> None:
    """Pack by the stream, which a first load does."""
    tell(part="packing")
    began = time.perf_counter()
    with opened(folder):
        tell(seconds=time.perf_counter() - began)


def run(folder: Path) -> None:
    """Answer in every way that the issue names, and tell what it took."""
    tell(part="loading")
    began = time.perf_counter()
    with opened(folder) as engine:
        tell(load_seconds=time.perf_counter() - began)
        model = engine.runtime.model
        assert isinstance(model, PackedModel)
        tell(part="prefill and canvas")
        tell(**canvas(engine, model))
        tell(part="constrained answer")
        tell(constrained=constrained(engine))
        tell(part="decision")
        tell(decision=decision(engine))
        tell(part="edit")
        tell(edit=edit(engine))


def canvas(engine: redraft.Engine, model: PackedModel) -> dict[str, Any]:
    """Denoise the canvas after a prompt that fills the context, in a few steps."""
    length, vocabulary = model.config.canvas_length, model.config.vocab_size
    prompt = torch.randint(16, vocabulary, (CONTEXT - length,), generator=torch.Generator().manual_seed(0)).tolist()
    times, used = [time.perf_counter()], [time.process_time()]

    def stepped(_: object) -> None:
        times.append(time.perf_counter())
        used.append(time.process_time())
        tell(part=f"canvas, after step {len(times) - 1}")

    result = engine.generate(
        prompt,
        max_tokens=length,
        min_tokens=length,
        ignore_eos=True,
        max_denoising_steps=STEPS,
        # Before its last step no canvas can equal those of so many earlier ones, so that all steps are taken.
        stopping=StableAndConfident(STEPS),
        seed=1,
        on_step=stepped,
    )
    # The first one shares its forward with the last of the prompt.
    steps = [later - earlier for earlier, later in pairwise(times[1:])]
    step, work = statistics.median(steps), step_multiply_adds(model, len(prompt), length)
    # Of a processor that others use, too, the best moment is its peak.
    peak = min((found for _ in range(PEAKS) if (found := seconds_at_peak(work)) is not None), default=None)
    return {
        "tokens": [result.usage.prompt_tokens, result.usage.completion_tokens],
        "prefill_and_first_step_seconds": times[1] - times[0],
        "step_seconds": steps,
        "step_processor_seconds": [later - earlier for earlier, later in pairwise(used[1:])],
        "multiply_adds": sum(work.values()),
        "weight_bytes": model.nbytes,
        "share_of_peak": None if peak is None else peak / step,
    }


def constrained(engine: redraft.Engine) -> dict[str, Any]:
    """Answer by a schema, and read the answer as its reader would."""
    began, times = time.perf_counter(), list[float]()
    result = engine.generate(
        "A record of a person:\n",
        constraint=JSONSchema(SCHEMA),
        max_denoising_steps=FEW,
        seed=2,
        on_step=lambda _: times.append(time.perf_counter()),
    )
    found = json.loads(result.text)
    if set(found) != MEMBERS or not isinstance(found["yes"], bool):
        raise RuntimeError(f"{result.text!r} is not what the schema says")
    return {"seconds": time.perf_counter() - began, "steps": len(times), "text": result.text}


def decision(engine: redraft.Engine) -> dict[str, Any]:
    """Decide between two answers."""
    began = time.perf_counter()
    result = engine.choose("Is the sky blue? Answer:", ["yes", "no"])
    return {"seconds": time.perf_counter() - began, "probabilities": dict(result.probabilities)}


def edit(engine: redraft.Engine) -> dict[str, Any]:
    """Rewrite a word between two that stay."""
    text, began = "one two three", time.perf_counter()
    result = engine.edit(text, [(4, 7)], max_denoising_steps=FEW, seed=3)
    if not (result.text.startswith("one ") and result.text.endswith(" three")):
        raise RuntimeError(f"{result.text!r} does not keep what stood around the word")
    return {"seconds": time.perf_counter() - began, "text": result.text}


TASKS: dict[str, Callable[[Path], None]] = {"pack": pack, "run": run}


# ---- the parent


def measure(
    folder: Path, scale: str, parts: Sequence[str], log: TextIO | None, python: str = sys.executable
) -> dict[str, Any]:
    """Do the parts that are asked for, one after the other; ``python`` runs what has a process of its own."""
    found: dict[str, Any] = {"scale": scale}
    if "write" in parts:
        began = time.perf_counter()
        synthetic.write(folder, scale)
        found["write"] = {"seconds": time.perf_counter() - began, "bytes": _bytes(folder)}
    own = footprint(checkpoint.read(folder), "int4", Use(CONTEXT))
    found["counted"] = {"running": own.running, "looked up": own.looked_up, "packing": own.packing}
    for task in TASKS:
        if task in parts:
            found[task] = in_a_process(task, folder, log, python)
    return found


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Say what was found."""
    if "write" in found:
        yield f"written: {found['write']['bytes'] / 1e9:.2f} GB in {found['write']['seconds']:.0f} s"
    counted = found["counted"]
    yield f"counted from headers: {counted['running'] / 1e9:.2f} GB, and {counted['looked up'] / 1e9:.2f} looked up"
    for task in TASKS:
        if task in found:
            memory = found[task]["memory"]
            again = f"pages were read from disk {memory['read again']:,} times"
            yield f"{task}: {memory['peak'] / 1e9:.2f} GB at most; {again}"
            for part, own in memory["parts"].items():
                yield f"  {part}: " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in own.items()) + " GB"
    if "pack" in found:
        yield f"packed in {found['pack']['seconds']:.0f} s"
    if "run" not in found:
        return
    run = found["run"]
    shown = ", ".join(f"{one:.2f}" for one in run["step_seconds"])
    yield f"loaded in {run['load_seconds']:.1f} s; prompt and first step {run['prefill_and_first_step_seconds']:.2f} s"
    share = "" if run["share_of_peak"] is None else f", {run['share_of_peak']:.0%} of the peak measured here"
    work = f"{run['multiply_adds'] / 1e12:.3g} million million multiply-adds, {run['weight_bytes'] / 1e9:.2f} GB"
    yield f"steps after it: {shown} s ({work} of weights{share})"
    yield "the processor's time of each: " + ", ".join(f"{one:.2f}" for one in run["step_processor_seconds"]) + " s"
    for name in ("constrained", "decision", "edit"):
        yield f"{name}: {json.dumps(run[name])}"
    verdict = "within" if run["memory"]["peak"] <= LIMIT else "MORE THAN"
    yield f"{run['memory']['peak'] / 1e9:.2f} GB: {verdict} {LIMIT / 1e9:.0f} GB"


def main() -> int:
    """Measure and print; 1 where memory was more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=synthetic.SCALES, default="full")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or will be; it is not removed then")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated; by default all parts")
    parser.add_argument("--log", type=Path, help="memory over time: seconds, part, and bytes in all, own and of files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task is not None:
        tell(pid=os.getpid())
        TASKS[arguments.task](arguments.folder)
        return 0
    if not Path("/proc/self/status").exists():
        parser.error("memory is looked at in /proc, which this system does not have")
    status = library.status()
    print(f"kernels: {status.tier}, {status.threads} threads of {os.cpu_count()} processors")
    parts = arguments.only or PARTS
    with tempfile.TemporaryDirectory() as made, open(arguments.log or os.devnull, "w", encoding="utf-8") as log:
        found = measure(arguments.folder or Path(made) / arguments.scale, arguments.scale, parts, log)
    found["kernels"] = None if bindings.kernels() is None else status.tier
    for line in lines(found):
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return int("run" in found and found["run"]["memory"]["peak"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
