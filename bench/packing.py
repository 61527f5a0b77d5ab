"""Measures what packing takes: peak memory seen from outside the process, time, and what a kill costs.

    python -m bench.packing                          # a layer of full size and its embedding, 3.2 GB in bfloat16
    python -m bench.packing --layers 2 --dtype int4 --folder /somewhere/with/room --json out.json

A synthetic checkpoint of DiffusionGemma's full shape is written, and ``redraft quantize`` makes another of it, once in
one go, and once killed (SIGKILL) half way and called again. The peak is the largest ``VmRSS`` that was seen, sampled
from this process; beside it the largest of what is no file's page (``RssAnon``), which the system cannot take back.
"""

import argparse
import filecmp
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tests.random_checkpoint import write_tokenizer
from torch import Tensor

from bench.batching import full_size
from redraft.formats.json_objects import write_object
from redraft.formats.safetensors import WEIGHTS_FILE
from redraft.formats.streamed import unfinished, write_each
from redraft.kernels.packed import Format
from redraft.models import checkpoint
from redraft.models.diffusion_gemma.family import FAMILY
from redraft.models.packing import packed_bytes, packing_peak

_SAMPLES_A_SECOND = 50


@dataclass(frozen=True)
class Peak:
    """A process seen from outside."""

    resident: int
    """Bytes: the largest VmRSS."""
    anonymous: int
    """Bytes: the largest RssAnon."""
    seconds: float


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write a checkpoint with weights that repeat, and return its largest tensor's bytes."""
    config = full_size(layers, vocabulary=262_144)
    folder.mkdir(parents=True)
    write_object(folder / "config.json", {**config.to_json(), "dtype": "bfloat16"})
    write_tokenizer(folder, 300)
    with torch.device("meta"):
        model = FAMILY.build(config, {})
    shapes = {FAMILY.stored_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    pattern = (torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()

    def weight(name: str, /) -> Tensor:
        if len(shapes[name]) < 2:
            return torch.ones(shapes[name], dtype=torch.bfloat16)
        return pattern.repeat(-(-prod(shapes[name]) // len(pattern)))[: prod(shapes[name])].view(shapes[name])

    write_each(folder, {name: (shape, torch.bfloat16) for name, shape in shapes.items()}, weight)
    return max(2 * prod(shape) for shape in shapes.values())


def quantise(source: Path, out: Path, dtype: str, kill_at: int | None = None) -> Peak:
    """Run ``redraft quantize``; kill it once so many bytes are on disk."""
    command = [sys.executable, "-m", "redraft", "quantize", str(source), str(out), "--dtype", dtype, "--quiet"]
    begun, resident, anonymous = time.monotonic(), 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                fields = dict(
                    line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                )
            except OSError:
                break
            resident = max(resident, _kilobytes(fields.get("VmRSS")))
            anonymous = max(anonymous, _kilobytes(fields.get("RssAnon")))
            if kill_at is not None and _on_disk(unfinished(out / WEIGHTS_FILE)) >= kill_at:
                process.send_signal(signal.SIGKILL)
            time.sleep(1 / _SAMPLES_A_SECOND)
    if process.returncode != (0 if kill_at is None else -signal.SIGKILL):
        raise RuntimeError(f"redraft quantize ended with {process.returncode}")
    return Peak(resident, anonymous, time.monotonic() - begun)


def _kilobytes(field: str | None) -> int:
    return 0 if field is None else int(field.split()[0]) * 1024


def _on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.exists() else 0


def measure(folder: Path, layers: int, dtype: Format) -> dict[str, object]:
    """Measure in a folder that has room for the checkpoint and two of its packed copies."""
    source = folder / "source"
    largest = write_checkpoint(source, layers)
    found = checkpoint.read(source)
    size = packed_bytes(found, dtype)
    whole = quantise(source, folder / "whole", dtype)
    killed = quantise(source, folder / "resumed", dtype, kill_at=size // 2)
    resumed = quantise(source, folder / "resumed", dtype)
    return {
        "source_bytes": (source / WEIGHTS_FILE).stat().st_size,
        "largest_tensor_bytes": largest,
        "packed_bytes": size,
        "peak_that_was_told": packing_peak(found, dtype),
        "whole": asdict(whole),
        "beyond_the_largest_tensor": whole.resident - largest,
        "killed_after_seconds": killed.seconds,
        "resumed": asdict(resumed),
        "same_bytes": filecmp.cmp(folder / "whole" / WEIGHTS_FILE, folder / "resumed" / WEIGHTS_FILE, shallow=False),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--dtype", default="int8", choices=("int8", "int4"))
    parser.add_argument("--folder", type=Path, help="where there is room; by default the system's temporary folder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="redraft-packing-", dir=arguments.folder) as temporary:
        result = measure(Path(temporary), arguments.layers, arguments.dtype)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
