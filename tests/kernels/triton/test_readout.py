"""The readout of a vocabulary in chunks, in Triton's interpreter, is that of all its logits in float64.

The table and the hidden states are numbers that bfloat16 has. What may differ is sums in float32, and of the soft
embedding weights in bfloat16, which the interpreter cuts: up to one part in 128 of each.
"""

import pytest
import torch
from torch import Tensor

from redraft.kernels import device_head
from redraft.kernels.device_head import DeviceHead
from redraft.layers.vocabulary_head import VocabularyHead
from tests.kernels.triton.conftest import INTERPRETED

pytestmark = [pytest.mark.gpu, INTERPRETED]

ROWS, WIDTH, VOCABULARY = 5, 40, 300


def probabilities(head: VocabularyHead, hidden: Tensor, temperatures: Tensor) -> Tensor:
    logits = hidden.double() @ head.table.double().T
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / temperatures[:, None]).softmax(-1)


@pytest.mark.parametrize(("softcap", "dtype"), [(32.0, torch.bfloat16), (None, torch.float32)])
def test_a_readout_in_chunks_is_that_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, dtype: torch.dtype
) -> None:
    # Two chunks: of two tiles, and of one that is not full. A soft cap that is a power of two scales without rounding.
    monkeypatch.setattr(device_head, "CHUNK", 256)
    torch.manual_seed(0)
    table = (torch.randn(VOCABULARY, WIDTH) / 4).to(dtype)
    hidden = (torch.randn(ROWS, WIDTH) * 2).to(dtype).float()
    # The likeliest token of a row in each tile, and equal ones, of which the first is named.
    table[290] = table[10]
    hidden[0] = 4 * table[10].float()
    hidden[1] = 4 * table[299].float()
    temperatures = torch.tensor([0.5, 1.0, 2.0, 0.8, 1.3], dtype=torch.float64)
    uniforms = torch.tensor([0.999, 0.5, 0.0, 0.3, 0.9999999], dtype=torch.float64)
    head = VocabularyHead(table, softcap, 1.5)
    found = DeviceHead(head)._by_kernels(hidden, temperatures, uniforms, True)
    expected = probabilities(head, hidden, temperatures)
    assert torch.equal(found.argmax, expected.argmax(-1))
    assert found.argmax[0] == 10
    torch.testing.assert_close(found.confidence.double(), expected.amax(-1), rtol=1e-4, atol=1e-6)
    entropy = -(expected * expected.log()).nan_to_num(0.0).sum(-1)
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
    # A uniform falls into the part of the cumulative sum that belongs to the token drawn.
    cumulative = expected.cumsum(-1)
    end = cumulative.gather(1, found.sample[:, None])[:, 0]
    begin = end - expected.gather(1, found.sample[:, None])[:, 0]
    assert ((begin - 1e-5 <= uniforms) & (uniforms <= end + 1e-5)).all()
    assert found.self_conditioning is not None
    mean = 1.5 * expected @ table.double()
    # Weights are cut, then scaled, which is cut again, and summed with the table's numbers.
    cut = 0.0 if dtype == torch.float32 else 3 * 2.0**-7
    bound = cut * 1.5 * (expected @ table.double().abs()) + 1e-4
    assert ((found.self_conditioning.double() - mean).abs() <= bound).all()
    # What torch draws on the CPU, from sums in float64.
    plain = head.read(hidden, temperatures, uniforms)
    assert torch.equal(found.sample, plain.sample)
    tokens = torch.tensor([0, 299, 128, 256, 17])
    chosen = expected.gather(1, tokens[:, None])[:, 0]
    # Torch takes one token's product number by number in the table's dtype, and rounds each; so of the likeliest one.
    terms = sum((hidden.double() * table[which].double()).abs().sum(-1) for which in (tokens, found.argmax))
    rounding = 2.0**-8 * terms / temperatures + 1e-3
    assert ((found.logprob(tokens).double() - chosen.log()).abs() <= rounding).all()
    torch.testing.assert_close(found.logprob(found.argmax), found.confidence.log())


def test_a_row_that_is_no_number_says_so_and_spoils_no_other() -> None:
    table, hidden = torch.randn(200, WIDTH), torch.randn(3, WIDTH)
    hidden[1] = float("nan")
    head = VocabularyHead(table, 30.0, None)
    found = DeviceHead(head)._by_kernels(hidden, 1.0, None, False)
    assert found.entropy.isnan().tolist() == [False, True, False]
    assert 0 <= int(found.argmax[1]) < 200
    others = head.read(hidden[[0, 2]], 1.0, None, self_conditioning=False)
    torch.testing.assert_close(found.entropy[[0, 2]], others.entropy, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.argmax[[0, 2]], others.argmax)
