"""A Gemma has the logits of ``transformers``, however its text is cut; packed, a row's bits are nobody else's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.models import checkpoint
from redraft.models.base import BlockDiffusionModel, Span
from redraft.models.gemma.model import Gemma
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import load_packed
from tests.models.driving import encoded, fresh, kept
from tests.random_checkpoint import LETTERS_SIZE
from tests.random_gemma import KINDS, WINDOW

TOLERANCE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}
needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="torch's products are not bit for bit by row")


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(16, LETTERS_SIZE, (count,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def rows(model: BlockDiffusionModel, text: Tensor, sizes: int | list[int], cache: Any = None) -> Tensor:
    """The hidden states of all of a text [T], encoded in forwards of so many tokens."""
    cache = fresh(model) if cache is None else cache
    found = [model.forward([Span(part, cache, "encode", wanted=len(part))])[0] for part in text.split(sizes)]
    return torch.cat([part for part in found if part is not None])


@torch.no_grad()
def expected(reference: Any, text: Tensor) -> Tensor:
    return reference(input_ids=text[None]).logits[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_logits_of_the_reference_past_its_window(
    folders: dict[str, Path], references: dict[str, Any], kind: str
):
    """In one forward, and in parts that cross the window, then token by token across the border of a block."""
    text = tokens(140)
    assert len(text) > 128 > WINDOW
    theirs, model = expected(references[kind], text), checkpoint.read(folders[kind]).load("float32")
    assert isinstance(model, Gemma)
    assert theirs.std() > 0.3, "logits that differ"
    for sizes in ([140], [5, 60, 57, *[1] * 18]):
        torch.testing.assert_close(model.logits(rows(model, text, sizes)), theirs, **TOLERANCE)


def test_the_last_rows_alone_are_given_where_they_alone_are_wanted(folders: dict[str, Path]):
    model = checkpoint.read(folders["gemma4 experts"]).load("float32")
    text, other = tokens(20), tokens(9, seed=1)
    with torch.inference_mode():
        last, nothing = model.forward(
            [Span(text, fresh(model), "encode", wanted=3), Span(other, fresh(model), "encode")]
        )
    assert nothing is None
    assert last is not None
    torch.testing.assert_close(last, rows(model, text, 20)[-3:], atol=1e-5, rtol=0)


def test_several_sequences_are_one_span(folders: dict[str, Path]):
    model = checkpoint.read(folders["gemma3"]).load("float32")
    both = torch.stack([tokens(20), tokens(20, seed=1)])

    class Growing:
        """The least that a cache of several sequences is."""

        length = 0

        def __init__(self) -> None:
            self.layers: dict[int, tuple[Tensor, Tensor]] = {}

        def read(self, layer: int, rows: int = 0) -> list[tuple[Tensor, Tensor]]:
            return [self.layers[layer]] if layer in self.layers else []

        def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
            self.layers[layer] = keys, values

        def advance(self, count: int) -> None:
            self.length += count

        def rewind(self) -> None:
            pass

    with torch.inference_mode():
        (found,) = model.forward([Span(both, Growing(), "encode", wanted=20)])
    assert found is not None
    for own, text in zip(found, both, strict=True):
        torch.testing.assert_close(own, rows(model, text, 20), atol=1e-5, rtol=0)


def test_it_has_no_canvas(folders: dict[str, Path]):
    model = checkpoint.read(folders["gemma3"]).load("float32")
    assert (model.modes, model.corruption, model.config.canvas_length) == (("autoregressive",), None, 0)
    with pytest.raises(ValueError, match="a Gemma has no canvas"):
        model.forward([Span(tokens(4), encoded(model, tokens(3)), "denoise")])


# Of the logits, by root mean squares, in the middle one of the rows: in some, rounding chooses another expert. Random
# weights are as hard to quantise as weights can be.
RELATIVE_ERROR = {"float32": 2e-6, "bfloat16": 0.008, "int8": 0.03, "int4": 0.2}


@pytest.mark.parametrize("without", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("kind", ["gemma3", "gemma4 dense", "gemma4 experts"])
def test_packed_weights_give_the_plain_models_logits(
    folders: dict[str, Path], kind: str, without: bool, monkeypatch: pytest.MonkeyPatch
):
    if without:
        monkeypatch.setattr(bindings, "kernels", lambda: None)
    found, text = checkpoint.read(folders[kind]), tokens(150)
    plain = found.load("float32")
    exact = plain.logits(rows(plain, text, 150))
    for format in FORMATS:
        model = load_packed(found, format)
        error = (model.logits(rows(model, text, 150)) - exact).square().mean(-1).sqrt() / exact.square().mean().sqrt()
        assert error.median() < RELATIVE_ERROR[format], format


@needs_kernels
@pytest.mark.parametrize(
    ("kind", "format"),
    [*(("gemma3", format) for format in FORMATS), ("gemma4 experts", "bfloat16"), ("gemma4 experts", "int4")],
)
def test_on_the_kernels_nobody_notices_who_shares_a_forward(folders: dict[str, Path], kind: str, format: Format):
    """A token alone, among fourteen others, and in the chunk of a prompt has the same bits."""
    model = load_packed(checkpoint.read(folders[kind]), format)
    assert isinstance(model, PackedModel)
    texts = [tokens(2 + 9 * number, seed=number) for number in range(15)]
    together, alone = ([encoded(model, text[:-1], chunk) for text in texts] for chunk in (256, 50))
    prompt = tokens(140, seed=99)
    with torch.inference_mode():
        *each, whole = model.forward(
            [
                *(Span(text[-1:], cache, "encode", wanted=1) for text, cache in zip(texts, together, strict=True)),
                Span(prompt, cache := fresh(model), "encode", wanted=len(prompt)),
            ]
        )
    for text, found, beside, cache in zip(texts, each, together, alone, strict=True):
        assert found is not None
        assert torch.equal(found, rows(model, text[-1:], 1, cache))
        for ours, theirs in zip(kept(cache, 4), kept(beside, 4), strict=True):
            assert torch.equal(ours, theirs)
    assert whole is not None
    assert torch.equal(whole, rows(model, prompt, 11))
