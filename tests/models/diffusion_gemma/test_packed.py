"""The model on packed weights: one forward for two, the formats' errors, and what is refused."""

from pathlib import Path

import pytest
import torch

from redraft.engine.memory import KVPool, PooledCache
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.models import checkpoint
from redraft.models.checkpoint import Checkpoint
from redraft.models.diffusion_gemma.model import WindowPolicy
from redraft.models.diffusion_gemma.packed import PackedDiffusionGemma, torch_on_one_thread
from redraft.models.packed_cache import load_packed
from tests.random_checkpoint import random_checkpoint

needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="torch's products are not bit for bit by row")
SLIDING, FULL = "sliding_attention", "full_attention"
CANVAS = torch.arange(20, 28)[None]
# Of the logits, by root mean squares. Over four seeds it was 0.005 to 0.011, 0.024 to 0.043 and 0.20 to 0.41: random
# weights are as hard to quantise as weights can be.
RELATIVE_ERROR = {"bfloat16": 0.015, "int8": 0.06, "int4": 0.55}


def random_model(folder: Path, top_k: int) -> Checkpoint:
    """With a window that contexts outgrow, and sizes that are no multiples of blocks."""
    random_checkpoint(
        folder,
        vocab_size=300,
        hidden_size=144,
        intermediate_size=200,
        layer_types=(SLIDING, FULL, SLIDING, FULL),
        sliding_window=12,
        head_dim=16,
        global_head_dim=24,
        num_experts=8,
        moe_intermediate_size=40,
        top_k=top_k,
    )
    return checkpoint.read(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return random_model(tmp_path_factory.mktemp("model"), top_k=2)


@pytest.fixture(scope="module")
def unrouted(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """All experts take part: no small error turns into a large one by choosing another expert."""
    return random_model(tmp_path_factory.mktemp("model"), top_k=8)


def prompt(length: int) -> torch.Tensor:
    return torch.randint(16, 300, (1, length), generator=torch.Generator().manual_seed(length))


def encoded(model: PackedDiffusionGemma, tokens: torch.Tensor, chunk: int = 256) -> PooledCache:
    cache = KVPool.of(model).open()[0]
    for start in range(0, tokens.shape[1], chunk):
        model.encode(tokens[:, start : start + chunk], cache)
    return cache


def kept(cache: PooledCache, layers: int) -> list[torch.Tensor]:
    return [part for layer in range(layers) for blocks in cache.read(layer) for part in blocks]


@needs_kernels
@pytest.mark.parametrize("context", [0, 5, 11, 12, 40, 300])
@pytest.mark.parametrize("window_policy", ["shared", "per_query"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_commit_together_with_the_next_canvas_is_both_bit_for_bit(
    found: Checkpoint, format: Format, window_policy: WindowPolicy, context: int
):
    model = load_packed(found, format, window_policy)
    tokens = prompt(8)
    together, apart = (encoded(model, prompt(context)) for _ in range(2))
    hidden = model.commit_and_denoise(tokens, CANVAS, together)
    model.encode(tokens, apart)
    assert torch.equal(hidden, model.denoise(CANVAS, apart, None))
    assert together.length == apart.length == context + 8
    for one, other in zip(kept(together, 4), kept(apart, 4), strict=True):
        assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_a_commit_of_another_length_than_the_canvas_is_both_too(found: Checkpoint, format: Format):
    model = load_packed(found, format)
    for length in (1, 7, 30):
        together, apart = (encoded(model, prompt(9)) for _ in range(2))
        hidden = model.commit_and_denoise(prompt(length), CANVAS, together)
        model.encode(prompt(length), apart)
        assert torch.equal(hidden, model.denoise(CANVAS, apart, None))


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_chunks_write_the_same_bits_again(found: Checkpoint, format: Format):
    model, tokens = load_packed(found, format), prompt(40)
    first, again = (encoded(model, tokens, 7) for _ in range(2))
    for one, other in zip(kept(first, 4), kept(again, 4), strict=True):
        assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("chunk", [1, 7, 128, 150])
@pytest.mark.parametrize("format", FORMATS)
def test_prefill_in_other_chunks_is_the_same_bit_for_bit(found: Checkpoint, format: Format, chunk: int):
    """Attention adds up a context in tiles whose borders are those of blocks, and not where chunks end."""
    model, tokens = load_packed(found, format), prompt(300)
    whole, chunked = (encoded(model, tokens, size) for size in (256, chunk))
    for one, other in zip(kept(whole, 4), kept(chunked, 4), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(model.denoise(CANVAS, whole, None), model.denoise(CANVAS, chunked, None))


@pytest.mark.parametrize("window_policy", ["shared", "per_query"])
def test_float32_gives_the_logits_of_the_plain_model(found: Checkpoint, window_policy: WindowPolicy):
    model, plain = load_packed(found, "float32", window_policy), found.load("float32", window_policy)
    tokens, signal = prompt(40), None
    ours, theirs = encoded(model, tokens), KVPool.of(plain).open()[0]
    plain.encode(tokens, theirs)
    for _ in range(3):
        hidden, expected = model.denoise(CANVAS, ours, signal), plain.denoise(CANVAS, theirs, signal)
        torch.testing.assert_close(model.logits(hidden), plain.logits(expected), atol=1e-4, rtol=0)
        signal = plain.readout(expected[0], 0.8, None).signal[None]


@pytest.mark.parametrize("format", RELATIVE_ERROR)
def test_the_other_formats_stay_within_their_logit_error(
    unrouted: Checkpoint, format: Format, monkeypatch: pytest.MonkeyPatch
):
    """With kernels and without: what is lost is the format's, and not the kernels'."""
    plain, errors = unrouted.load("float32"), []
    for work in (bindings.kernels, lambda: None):
        monkeypatch.setattr(bindings, "kernels", work)
        model, signal = load_packed(unrouted, format), None
        ours, theirs = encoded(model, prompt(40)), KVPool.of(plain).open()[0]
        plain.encode(prompt(40), theirs)
        for _ in range(2):
            expected = plain.denoise(CANVAS, theirs, signal)
            exact = plain.logits(expected)
            error = model.logits(model.denoise(CANVAS, ours, signal)) - exact
            errors.append((error.square().mean() / exact.square().mean()).sqrt().item())
            signal = plain.readout(expected[0], 0.8, None).signal[None]
    assert max(errors) < RELATIVE_ERROR[format]
    assert max(errors[:2]) < 1.2 * max(errors[2:])


@pytest.mark.parametrize("format", FORMATS)
def test_a_readout_is_that_of_the_logits(found: Checkpoint, format: Format):
    model = load_packed(found, format)
    hidden = model.denoise(CANVAS, encoded(model, prompt(20)), None)[0]
    logp = (model.logits(hidden) / 0.5).log_softmax(-1)
    readout = model.readout(hidden, 0.5, None, top_k=2)
    # logits() rounds the hidden states, the readout those divided by the cap, at times the other way.
    close = {"rtol": 0, "atol": 1e-4 if format == "float32" else 0.05}
    torch.testing.assert_close(readout.top_logprobs, logp.topk(2, dim=-1).values, **close)
    torch.testing.assert_close(readout.entropy, -(logp.exp() * logp).sum(-1), **close)


@pytest.mark.parametrize("format", FORMATS)
def test_keys_and_values_are_kept_in_bfloat16_except_for_float32(found: Checkpoint, format: Format):
    model = load_packed(found, format)
    cache = encoded(model, prompt(5))
    assert model.kv_dtype == (torch.float32 if format == "float32" else torch.bfloat16)
    assert {part.dtype for part in kept(cache, 4)} == {model.kv_dtype}
    assert model.denoise(CANVAS, cache, None).dtype == torch.float32


def test_a_smaller_format_takes_less_memory(found: Checkpoint):
    sizes = [load_packed(found, format).nbytes for format in FORMATS]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("tokens_of", [1, 2])
def test_several_sequences_are_refused(found: Checkpoint, tokens_of: int):
    model = load_packed(found, "float32")
    two, cache = prompt(5).repeat(2, 1), KVPool.of(model).open()[0]
    refused = pytest.raises(ValueError, match="2 sequences at once; packed weights compute one sequence at a time")
    with refused:
        model.encode(two, cache)
    with refused:
        model.denoise(two, cache, None)
    with refused:
        model.commit_and_denoise(prompt(5).repeat(tokens_of, 1), CANVAS.repeat(3 - tokens_of, 1), cache)
    assert cache.length == 0


@needs_kernels
def test_a_checkpoint_in_bfloat16_is_packed_from_what_it_stores(tmp_path: Path):
    """Also in float32, which then is as exact as the file."""
    found = checkpoint.read(random_checkpoint(tmp_path, dtype=torch.bfloat16))
    model, plain = load_packed(found, "float32"), found.load("float32")
    hidden = model.denoise(CANVAS, KVPool.of(model).open()[0], None)
    expected = plain.denoise(CANVAS, KVPool.of(plain).open()[0], None)
    torch.testing.assert_close(model.logits(hidden), plain.logits(expected), atol=1e-4, rtol=0)


class TestTorchsThreads:
    """While kernels run torch has one thread; before and after it has what the user gave it."""

    @pytest.fixture(autouse=True)
    def three_threads(self):
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        yield
        torch.set_num_threads(before)

    @needs_kernels
    def test_one_during_a_forward(self, found, monkeypatch):
        model, seen = load_packed(found, "float32"), []
        monkeypatch.setattr(
            type(model), "_embed", lambda *_: seen.append(torch.get_num_threads()) or torch.zeros(8, 144)
        )
        model.denoise(CANVAS, KVPool.of(model).open()[0], None)
        assert seen == [1]
        assert torch.get_num_threads() == 3

    def test_restored_after_an_error(self, found):
        model = load_packed(found, "float32")
        with pytest.raises(ValueError, match="one sequence"):
            model.denoise(CANVAS.expand(2, -1), KVPool.of(model).open()[0], None)
        assert torch.get_num_threads() == 3

    def test_kept_where_torch_does_the_work(self, monkeypatch):
        monkeypatch.setattr(bindings, "kernels", lambda: None)
        with torch_on_one_thread():
            assert torch.get_num_threads() == 3
