"""Without kernels, torch makes float32 of packed weights some at a time, and keeps none of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import redraft
from redraft.canvas.shaping import Filters, RowShaping, Shaping
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels import bindings
from redraft.kernels import linear as products
from redraft.kernels.experts import experts
from redraft.kernels.linear import as_operand, linear
from redraft.kernels.packed import Format, pack, pack_gated
from redraft.kernels.readout import PackedHead
from redraft.layers import vocabulary_head
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models import checkpoint
from redraft.models.outline import beside_bytes, outline
from redraft.models.packed import PackedModel
from tests.conftest import WriteCheckpoint
from tests.kernels.quantised import random
from tests.kernels.test_readout import uneven
from tests.kernels.test_shaping import changes
from tests.models.test_packing import live_bytes
from tests.readouts import tensors_of

ROWS, INPUTS, AT_A_TIME, TILE = 6, 128, 32 * 128 * 2, 64
# The sums of a product may be taken in another order where its outputs are cut elsewhere.
ROUNDING = 1e-5


class Largest(TorchDispatchMode):
    """Notes the most numbers of any tensor that an operation makes while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            # A view of what is there takes nothing.
            if isinstance(one, Tensor) and not any(_shares(one, given) for given in args):
                self.numbers = max(self.numbers, one.numel())
        return made


def _shares(one: Tensor, given: Any) -> bool:
    return isinstance(given, Tensor) and one.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()


@contextmanager
def at_most(numbers: int) -> Iterator[None]:
    """Fail where any tensor that is made in the block has more numbers."""
    with Largest() as largest:
        yield
    assert 0 < largest.numbers <= numbers


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "kernels", lambda: None)
    monkeypatch.setattr(products, "_AT_A_TIME", AT_A_TIME)
    monkeypatch.setattr(vocabulary_head, "TILE", TILE)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_product_has_some_blocks_of_its_weights_at_a_time(format: Format) -> None:
    weight, x = random(1000, INPUTS), random(ROWS, INPUTS, seed=1)
    for packed in (pack(weight, format, random(1000, seed=2)), pack_gated(weight, format, "silu")):
        with at_most(max(AT_A_TIME, ROWS * packed.padded_outputs)):
            found = linear(packed, x)
        whole = as_operand(x, format) @ packed.unpacked()[0].T
        if packed.plain_bias is not None:
            whole = whole + packed.plain_bias[0]
        if packed.gated:
            gate, up = whole.chunk(2, dim=-1)
            whole = torch.nn.functional.silu(gate) * up
        torch.testing.assert_close(found, whole, rtol=ROUNDING, atol=ROUNDING * whole.abs().max().item())


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_experts_have_some_blocks_of_one_of_them_at_a_time(format: Format) -> None:
    gate_up, down = pack_gated(random(5, 512, INPUTS), format), pack(random(5, 640, 256), format)
    weights, chosen = torch.ones(ROWS, 2), torch.tensor([[0, 4]] * ROWS)
    with at_most(max(AT_A_TIME, ROWS * 2 * 640)):
        experts(gate_up, down, random(ROWS, INPUTS), None, weights, chosen)


@pytest.mark.parametrize("shaped", [False, True], ids=["plain", "shaped"])
def test_a_readout_has_a_tile_of_its_table_at_a_time(shaped: bool) -> None:
    """What the head of the whole table reads."""
    tokens, temperature = 3000, 0.7
    head, hidden = PackedHead(pack(random(tokens, INPUTS), "int8"), 30.0, 1.7), random(ROWS, INPUTS, seed=4)
    classes, shaping = TokenClasses.of(uneven(tokens)), Shaping(Filters(top_k=40, top_p=0.7), changes(tokens, ROWS))
    uniforms = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = RowShaping.of([(ROWS, temperature, shaping)]) if shaped else None
    # What stands of logits, and of sums by class, is less than a tenth of the table.
    with at_most(max(ROWS * tokens, 2 * TILE * INPUTS)):
        found = head.read(hidden, temperature, uniforms, top_k=3, classes=classes, shaping=rows)
        own = found.logprob(found.sample)
    plain = VocabularyHead(head.table.unpacked()[0], 30.0, 1.7)
    operand = as_operand(hidden / 30.0, "int8") * 30.0
    whole = plain.read(operand, temperature, uniforms, top_k=3, classes=classes, shaping=rows, tile=TILE)
    for one, other in zip(tensors_of(found), tensors_of(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(own, whole.logprob(found.sample), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_answers_leave_nothing_but_what_was_packed(checkpoint_of: WriteCheckpoint, format: Format) -> None:
    """Beside packed matrices: the embedding as it is stored, keys and values, rotations."""
    folder = checkpoint_of(vocab_size=1024, hidden_size=128, num_experts=8, moe_intermediate_size=128)
    found, before = checkpoint.read(folder), live_bytes()
    with redraft.load(folder, dtype=format) as engine:
        model = engine.runtime.model
        assert isinstance(model, PackedModel)
        engine.generate([20, 21, 22], seed=1, max_tokens=16, max_denoising_steps=3)
        engine.generate([20, 21, 22], mode="autoregressive", max_tokens=3)
        kept = live_bytes() - before - engine.runtime.pool.used - sum(beside_bytes(found))
        assert kept < 1.2 * model.nbytes < 0.4 * outline(found, "float32").nbytes
