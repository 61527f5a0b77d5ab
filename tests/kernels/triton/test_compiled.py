"""Every kernel, as the package launches it at the sizes of the 26B model, compiles for the cards that are supported
without a card: it fits their shared memory, spills nothing, and multiplies by their matrix instructions."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: script/test --gpu, on Linux"),
]

ROOT = Path(__file__).parents[3]
_WARP = r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32"
# Bytes of shared memory that a block may have, and the instruction for a product of bfloat16 with sums in float32.
CARDS = {
    80: (163 << 10, _WARP),
    89: (99 << 10, _WARP),
    90: (227 << 10, r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.bf16\.bf16"),
    100: (227 << 10, r"tcgen05\.mma\.cta_group::1\.kind::f16"),
    120: (99 << 10, _WARP),
}
# Bytes of a thread's stack at most: which products have two registers there depends on the version of the compiler.
STACK = 8
WITHOUT_PRODUCTS = {"sort_kernel", "combine_kernel", "route_kernel", "merge_kernel"}
IN_FLOAT32 = {"router", "readout in float32"}


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, Any]]:
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.triton.compiling", *map(str, CARDS)]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("card", CARDS)
def test_each_kernel_fits_a_card(compiled: list[dict[str, Any]], card: int) -> None:
    own = [one for one in compiled if one["card"] == card]
    assert {one["kernel"] for one in own} > WITHOUT_PRODUCTS
    shared, instruction = CARDS[card]
    for one in own:
        assert one["shared"] <= shared, one
        assert one["LOCAL"] == 0, f"spills: {one}"
        assert one["STACK"] <= STACK, f"spills: {one}"
        # For products of float32 cards have no such instruction.
        if one["kernel"] not in WITHOUT_PRODUCTS and one["launch"] not in IN_FLOAT32:
            assert [name for name in one["instructions"] if re.fullmatch(instruction, name)], one
