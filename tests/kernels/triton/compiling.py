"""Compiles what the package launches, for cards that need not be there; a program of its own, for the interpreter and
the compiler cannot be in one process.

Launches go as far as Triton's own: it specialises and compiles a kernel for a card that a stand-in for the driver
names, and then nothing is launched. So the sizes of tiles, warps and stages are those of the package, on the shapes of
the 26B model. A line of JSON for each kernel and card, with what its code needs.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from redraft.kernels import packed
from redraft.kernels.device_head import CHUNK as CHUNK_TOKENS
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Activation, Format, MatrixShape, PackedMatrix
from redraft.kernels.triton import products, readout, routing

HIDDEN, INNER, EXPERTS, TOP_K, DENSE = 2816, 704, 128, 8, 2112
CANVAS, CHUNK = 256, 2048


class Card:
    """A stand-in for Triton's driver: a card of some compute capability, on which nothing is launched."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_device(self) -> int:
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)


def rows(count: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(count, width, dtype=dtype, device="meta")


def matrix(
    format: Format, outputs: int, inputs: int, count: int = 1, activation: Activation | None = None
) -> PackedMatrix:
    return packed.outline(MatrixShape(format, outputs, inputs, count, activation))


def norm() -> Norm:
    return Norm(torch.empty(HIDDEN, device="meta"), 1e-6)


def experts(format: Format, count: int) -> Callable[[], object]:
    """The two products of ``count`` rows with their experts."""

    def launch() -> None:
        block = routing.block_choices(count * TOP_K, EXPERTS)
        chosen = torch.empty(count, TOP_K, dtype=torch.int64, device="meta")
        route = routing.sort_by_expert(chosen, EXPERTS, block)
        gate_up = matrix(format, INNER, HIDDEN, EXPERTS, "gelu_tanh")
        inner = products.product(gate_up, rows(count, HIDDEN), norm(), route, gathers=True)
        outer = products.product(matrix(format, HIDDEN, INNER, EXPERTS), inner, None, route)
        routing.combine(outer, rows(count, TOP_K))

    return launch


def readout_of(count: int, dtype: torch.dtype) -> None:
    """A chunk of the vocabulary, and its merging."""
    chunk = readout.read_chunk(rows(count, HIDDEN, dtype), rows(CHUNK_TOKENS, HIDDEN, dtype), rows(1, count)[0], True)
    readout.merge(chunk.sums, chunk.best, rows(3, count), rows(1, count, torch.int64)[0], CHUNK_TOKENS)


LAUNCHES: dict[str, Callable[[], object]] = {
    "experts of a canvas, int4": experts("int4", CANVAS),
    "experts of a prompt, int4": experts("int4", CHUNK),
    "experts of a canvas, int8": experts("int8", CANVAS),
    "queries, int8": lambda: products.product(matrix("int8", 8192, HIDDEN), rows(CANVAS, HIDDEN), norm()),
    "dense branch, int8": lambda: products.product(
        matrix("int8", DENSE, HIDDEN, activation="gelu_tanh"), rows(CANVAS, HIDDEN), norm()
    ),
    "one row, int4": lambda: products.product(matrix("int4", HIDDEN, DENSE), rows(1, DENSE), None),
    "router": lambda: products.product(matrix("float32", EXPERTS, HIDDEN), rows(CANVAS, HIDDEN), Norm(None, 1e-6)),
    "readout of a canvas": lambda: readout_of(CANVAS, torch.bfloat16),
    "readout of one row": lambda: readout_of(1, torch.bfloat16),
    "readout in float32": lambda: readout_of(CANVAS, torch.float32),
    "routing": lambda: routing.route(rows(CANVAS, EXPERTS), TOP_K, rows(1, EXPERTS)[0]),
}


def compiled(capability: int, launch: Callable[[], object]) -> list[tuple[str, Any]]:
    """Return the kernels that a launch compiles for a card, by name."""
    found: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append((self.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    driver.set_active(Card(capability))
    JITFunction.run = compile_only
    try:
        launch()
    finally:
        JITFunction.run = run
    return found


def needs(kernel: Any) -> dict[str, object]:
    """Return what a compiled kernel's code takes, and its matrix instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK", "LOCAL")}
    instructions = re.findall(r"(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)[\w.:]*", kernel.asm["ptx"])
    return {"shared": kernel.metadata.shared, **numbers, "instructions": sorted(set(instructions))}


def main() -> None:
    """Compile for the compute capabilities that are asked for, 89 for 8.9."""
    for capability in map(int, sys.argv[1:]):
        for name, launch in LAUNCHES.items():
            for kernel, own in compiled(capability, launch):
                print(json.dumps({"launch": name, "kernel": kernel, "card": capability, **needs(own)}), flush=True)


if __name__ == "__main__":
    main()
