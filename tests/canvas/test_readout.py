"""A mask is no text: a readout without it is the distribution of all other tokens."""

import pytest
import torch

from redraft.canvas.readout import Readout, mask_classes, without_mask
from redraft.canvas.token_classes import TokenClasses
from redraft.layers.vocabulary_head import VocabularyHead

MASK, VOCABULARY = 5, 40


def read(scale: float, top: int = 0, classes: TokenClasses | None = None) -> tuple[torch.Tensor, Readout, torch.Tensor]:
    """Logits [C, V] in which the mask is the likeliest token of half of the rows; their readout, and its uniforms."""
    generator = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(64, 8, generator=generator), torch.randn(VOCABULARY, 8, generator=generator)
    table[MASK] *= scale
    uniforms = torch.rand(64, dtype=torch.float64, generator=generator)
    found = VocabularyHead(table, None, None).read(
        hidden, 0.7, uniforms, self_conditioning=False, top_k=top, classes=classes
    )
    return hidden @ table.T / 0.7, found, uniforms


@pytest.mark.parametrize("scale", [2.0, 4.0, 40.0])
def test_it_is_the_softmax_of_the_others(scale: float) -> None:
    logits, found, uniforms = read(scale, 4, mask_classes(VOCABULARY, MASK))
    assert (found.argmax == MASK).any()
    logp = logits.masked_fill(torch.arange(VOCABULARY) == MASK, float("-inf")).double().log_softmax(-1)
    # Where the mask has nearly all, what is left in float32 is known to fewer digits.
    sure = logits.double().log_softmax(-1)[:, MASK].exp() < 0.999
    ours = without_mask(found, MASK, uniforms)
    assert torch.equal(ours.argmax, logp.argmax(-1))
    entropy = -(logp.exp() * logp).nan_to_num(0.0).sum(-1)
    torch.testing.assert_close(ours.entropy[sure].double(), entropy[sure], atol=2e-3, rtol=0)
    torch.testing.assert_close(ours.confidence[sure].double(), logp.amax(-1).exp()[sure], atol=2e-3, rtol=0)
    drawn = ours.probability(ours.sample).double()
    torch.testing.assert_close(drawn[sure], logp.exp().gather(1, ours.sample[:, None])[sure, 0], atol=2e-3, rtol=2e-3)
    far = logp.masked_fill(torch.arange(VOCABULARY) == MASK, 0.0).argmin(-1)
    expected_far = logp.gather(1, far[:, None])[sure, 0]
    torch.testing.assert_close(ours.logprob(far)[sure].double(), expected_far, atol=2e-3, rtol=1e-5)
    assert (ours.logprob(torch.full((64,), MASK)) == float("-inf")).all()
    assert ours.top_ids is not None
    assert ours.top_logprobs is not None
    assert torch.equal(ours.top_ids, logp.topk(3).indices)
    torch.testing.assert_close(ours.top_logprobs[sure].double(), logp.topk(3).values[sure], atol=2e-3, rtol=0)
    assert not (ours.sample == MASK).any()
    # By inverse CDF in token order.
    expected = (logp.exp().cumsum(-1) > uniforms[:, None]).int().argmax(-1)
    assert (ours.sample == expected)[sure].float().mean() > 0.98


def test_greedily_the_likeliest_token_is_the_sample() -> None:
    _, found, _ = read(3.0, 0, mask_classes(VOCABULARY, MASK))
    ours = without_mask(found, MASK, None)
    assert torch.equal(ours.sample, ours.argmax)


def test_a_row_of_nan_stays_one() -> None:
    hidden = torch.full((1, 8), float("nan"))
    found = VocabularyHead(torch.randn(VOCABULARY, 8), None, None).read(
        hidden, 1.0, None, self_conditioning=False, classes=mask_classes(VOCABULARY, MASK)
    )
    assert without_mask(found, MASK, None).entropy.isnan().all()


def test_without_class_sums_there_is_nothing_to_go_by() -> None:
    _, found, _ = read(1.0)
    with pytest.raises(ValueError, match="no class sums"):
        without_mask(found, MASK, None)
