"""DiffusionGemma on packed weights: batches of many requests, the formats' errors, and what is refused."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.canvas.readout import ReadoutSpec
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.layers.embedding import TokenTable
from redraft.models import checkpoint
from redraft.models.base import BlockDiffusionModel, Mode, Span, WindowPolicy
from redraft.models.checkpoint import Checkpoint
from redraft.models.packed import PackedModel, torch_on_one_thread
from redraft.models.packed_cache import load_packed
from tests.models.driving import commit_and_denoise, denoise, encode, encoded, fresh, kept, read
from tests.random_checkpoint import random_checkpoint

needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="torch's products are not bit for bit by row")
SLIDING, FULL = "sliding_attention", "full_attention"
CANVAS = torch.arange(20, 28)
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


Packed = Callable[..., PackedModel]


@pytest.fixture(scope="module")
def packed(found: Checkpoint) -> Packed:
    """``found`` in a format, by default with the published window policy; no test changes one."""

    @cache
    def load(format: Format, window_policy: WindowPolicy = "shared") -> PackedModel:
        return load_packed(found, format, {"window_policy": window_policy})

    return load


def prompt(length: int) -> torch.Tensor:
    return torch.randint(16, 300, (length,), generator=torch.Generator().manual_seed(length))


@needs_kernels
@pytest.mark.parametrize("context", [0, 5, 11, 12, 40, 300])
@pytest.mark.parametrize("window_policy", ["shared", "per_query"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_commit_together_with_the_next_canvas_is_both_bit_for_bit(
    packed: Packed, format: Format, window_policy: WindowPolicy, context: int
):
    model = packed(format, window_policy)
    tokens = prompt(8)
    together, apart = (encoded(model, prompt(context)) for _ in range(2))
    hidden = commit_and_denoise(model, tokens, CANVAS, together)
    encode(model, tokens, apart)
    assert torch.equal(hidden, denoise(model, CANVAS, apart))
    assert together.length == apart.length == context + 8
    for one, other in zip(kept(together, 4), kept(apart, 4), strict=True):
        assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_a_commit_of_another_length_than_the_canvas_is_both_too(packed: Packed, format: Format):
    model = packed(format)
    for length in (1, 7, 30):
        together, apart = (encoded(model, prompt(9)) for _ in range(2))
        hidden = commit_and_denoise(model, prompt(length), CANVAS, together)
        encode(model, prompt(length), apart)
        assert torch.equal(hidden, denoise(model, CANVAS, apart))


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_chunks_write_the_same_bits_again(packed: Packed, format: Format):
    model, tokens = packed(format), prompt(40)
    first, again = (encoded(model, tokens, 7) for _ in range(2))
    for one, other in zip(kept(first, 4), kept(again, 4), strict=True):
        assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("chunk", [1, 7, 128, 150])
@pytest.mark.parametrize("format", FORMATS)
def test_prefill_in_other_chunks_is_the_same_bit_for_bit(packed: Packed, format: Format, chunk: int):
    """Attention adds up a context in tiles whose borders are those of blocks, and not where chunks end."""
    model, tokens = packed(format), prompt(300)
    whole, chunked = (encoded(model, tokens, size) for size in (256, chunk))
    for one, other in zip(kept(whole, 4), kept(chunked, 4), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(denoise(model, CANVAS, whole), denoise(model, CANVAS, chunked))


@pytest.mark.parametrize("window_policy", ["shared", "per_query"])
def test_float32_gives_the_logits_of_the_plain_model(found: Checkpoint, packed: Packed, window_policy: WindowPolicy):
    options = {"window_policy": window_policy}
    model, plain = packed("float32", window_policy), found.load("float32", options)
    ours, theirs, soft = encoded(model, prompt(40)), encoded(plain, prompt(40)), None
    for _ in range(3):
        hidden, expected = denoise(model, CANVAS, ours, soft), denoise(plain, CANVAS, theirs, soft)
        torch.testing.assert_close(model.logits(hidden), plain.logits(expected), atol=1e-4, rtol=0)
        soft = read(plain, expected, 0.8).self_conditioning


@pytest.mark.parametrize("format", RELATIVE_ERROR)
def test_the_other_formats_stay_within_their_logit_error(
    unrouted: Checkpoint, format: Format, monkeypatch: pytest.MonkeyPatch
):
    """With kernels and without: what is lost is the format's, and not the kernels'."""
    plain, errors = unrouted.load("float32"), []
    for work in (bindings.kernels, lambda: None):
        monkeypatch.setattr(bindings, "kernels", work)
        model, soft = load_packed(unrouted, format), None
        ours, theirs = encoded(model, prompt(40)), encoded(plain, prompt(40))
        for _ in range(2):
            expected = denoise(plain, CANVAS, theirs, soft)
            exact = plain.logits(expected)
            error = model.logits(denoise(model, CANVAS, ours, soft)) - exact
            errors.append((error.square().mean() / exact.square().mean()).sqrt().item())
            soft = read(plain, expected, 0.8).self_conditioning
    assert max(errors) < RELATIVE_ERROR[format]
    assert max(errors[:2]) < 1.2 * max(errors[2:])


@pytest.mark.parametrize("format", FORMATS)
def test_a_readout_is_that_of_the_logits(packed: Packed, format: Format):
    model = packed(format)
    hidden = denoise(model, CANVAS, encoded(model, prompt(20)))
    logp = (model.logits(hidden) / 0.5).log_softmax(-1)
    readout = read(model, hidden, 0.5, top=2)
    # logits() rounds the hidden states, the readout those divided by the cap, at times the other way.
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-4 if format == "float32" else 0.05}
    torch.testing.assert_close(readout.top_logprobs, logp.topk(2, dim=-1).values, **close)
    torch.testing.assert_close(readout.entropy, -(logp.exp() * logp).sum(-1), **close)


class Drawn:
    """One of a mix of requests: it has a context, goes through random spans, and knows what each of them gave alone."""

    def __init__(self, model: BlockDiffusionModel, draw: random.Random) -> None:
        self._model, self._draw = model, draw
        length = draw.choice([0, 1, 7, 12, 40, 130])
        self.together, self.alone = (encoded(model, prompt(length)) if length else fresh(model) for _ in range(2))

    def spans(self) -> tuple[list[Span], list[torch.Tensor | None]]:
        """What it asks of the next forward, and what that gives where nobody else is in it."""
        draw, width = self._draw, 144
        canvas = torch.tensor(draw.choices(range(16, 300), k=draw.choice([3, 8, 17])))
        soft = None if draw.random() < 0.4 else torch.randn(len(canvas), width, generator=_generator(draw))
        tokens = torch.tensor(draw.choices(range(16, 300), k=draw.choice([1, 5, 8, 33])))
        kind = draw.choice(["prefill", "commit", "denoise", "denoise", "verify", "verify and go on"])
        if kind == "denoise":
            return [Span(canvas, self.together, "denoise", soft)], [denoise(self._model, canvas, self.alone, soft)]
        if kind.startswith("verify"):
            wanted = draw.randint(1, len(tokens))
            with torch.inference_mode():
                (rows,) = self._model.forward([Span(tokens, self.alone, "encode", wanted=wanted)])
            asked = [Span(tokens, self.together, "encode", wanted=wanted)]
            if kind == "verify":
                return asked, [rows]
            after = denoise(self._model, canvas, self.alone)
            return [*asked, Span(canvas, self.together, "denoise")], [rows, after]
        encode(self._model, tokens, self.alone)
        if kind == "prefill":
            return [Span(tokens, self.together, "encode")], [None]
        after = denoise(self._model, canvas, self.alone)
        return [Span(tokens, self.together, "encode"), Span(canvas, self.together, "denoise")], [None, after]


def _generator(draw: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(draw.randrange(1 << 30))


def mixes(model: BlockDiffusionModel, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(what a canvas or a cache holds after forwards with others, the same after forwards alone), of random mixes."""
    draw, pairs = random.Random(seed), []
    requests = [Drawn(model, draw) for _ in range(draw.randint(2, 5))]
    for _ in range(4):
        asked = [request.spans() for request in draw.sample(requests, draw.randint(2, len(requests)))]
        with torch.inference_mode():
            found = model.forward([span for spans, _ in asked for span in spans])
        expected = [hidden for _, hiddens in asked for hidden in hiddens]
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            pairs += [] if one is None or other is None else [(one, other)]
    for request in requests:
        assert request.together.length == request.alone.length
        pairs += zip(kept(request.together, 4), kept(request.alone, 4), strict=True)
    return pairs


@needs_kernels
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window_policy", ["shared", "per_query"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_a_request_gets_does_not_depend_on_who_shares_its_forwards(
    packed: Packed, format: Format, window_policy: WindowPolicy, seed: int
):
    pairs = mixes(packed(format, window_policy), seed)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert len(pairs) > 8


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("window_policy", ["shared", "per_query"])
def test_in_plain_torch_it_does_not_but_for_rounding(found: Checkpoint, window_policy: WindowPolicy, seed: int):
    pairs = mixes(found.load("float32", {"window_policy": window_policy}), seed)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_a_canvas_reads_the_same_beside_others(packed: Packed, format: Format):
    """Of other temperatures, sampled and greedy, with and without self-conditioning and the likeliest tokens."""
    model, draws = packed(format), torch.rand(3, 8, generator=torch.Generator().manual_seed(1)).double()
    hidden = [denoise(model, CANVAS + shift, encoded(model, prompt(9))) for shift in range(4)]
    specs = [
        ReadoutSpec(0.7, draws[0], True, 3),
        ReadoutSpec(1.3, None, True),
        ReadoutSpec(0.2, draws[1], False, 1),
        ReadoutSpec(0.7, draws[2], True),
    ]
    for own, alone, spec in zip(
        model.readout(hidden, specs),
        (model.readout([one], [spec])[0] for one, spec in zip(hidden, specs, strict=True)),
        specs,
        strict=True,
    ):
        for name in ("argmax", "sample", "entropy", "confidence", "self_conditioning", "top_ids", "top_logprobs"):
            ours, theirs = getattr(own, name), getattr(alone, name)
            assert (ours is None) == (theirs is None), name
            assert ours is None or torch.equal(ours, theirs), name
        assert (own.self_conditioning is None) != spec.self_conditioning


@pytest.mark.parametrize("format", FORMATS)
def test_keys_and_values_are_kept_in_bfloat16_except_for_float32(packed: Packed, format: Format):
    model = packed(format)
    cache = encoded(model, prompt(5))
    assert model.kv_dtype == (torch.float32 if format == "float32" else torch.bfloat16)
    assert {part.dtype for part in kept(cache, 4)} == {model.kv_dtype}
    assert denoise(model, CANVAS, cache).dtype == torch.float32


def test_a_smaller_format_takes_less_memory(packed: Packed):
    sizes = [packed(format).nbytes for format in FORMATS]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("mode", ["encode", "denoise"])
def test_several_sequences_in_a_span_are_refused(packed: Packed, mode: Mode):
    model = packed("float32")
    cache = fresh(model)
    with pytest.raises(ValueError, match=r"tokens \[2, 8\] in a span; packed weights compute one sequence a span"):
        model.forward([Span(prompt(5), cache, "encode"), Span(CANVAS.repeat(2, 1), cache, mode)])
    assert cache.length == 0


@needs_kernels
def test_a_checkpoint_in_bfloat16_is_packed_from_what_it_stores(tmp_path: Path):
    """Also in float32, which then is as exact as the file."""
    found = checkpoint.read(random_checkpoint(tmp_path, dtype=torch.bfloat16))
    model, plain = load_packed(found, "float32"), found.load("float32")
    hidden, expected = denoise(model, CANVAS, fresh(model)), denoise(plain, CANVAS, fresh(plain))
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
    def test_one_during_a_forward(self, packed, monkeypatch):
        model, seen = packed("float32"), []
        embed = model.parts.embed

        class Watched(TokenTable):
            def __call__(self, tokens: Tensor) -> Tensor:
                seen.append(torch.get_num_threads())
                return super().__call__(tokens)

        watched = replace(model.parts, embed=Watched(embed.table, embed.scale))
        monkeypatch.setattr(model, "parts", watched)
        denoise(model, CANVAS, fresh(model))
        assert seen == [1]
        assert torch.get_num_threads() == 3

    def test_restored_after_an_error(self, packed):
        model = packed("float32")
        cache = fresh(model)
        with pytest.raises(ValueError, match="follows a canvas"):
            model.forward([Span(CANVAS, cache, "denoise"), Span(CANVAS, cache, "denoise")])
        assert torch.get_num_threads() == 3

    def test_kept_where_torch_does_the_work(self, monkeypatch):
        monkeypatch.setattr(bindings, "kernels", lambda: None)
        assert torch_on_one_thread(torch.get_num_threads)() == 3
