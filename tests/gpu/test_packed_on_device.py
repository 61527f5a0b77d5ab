"""Packed weights on a device: by Triton's kernels, or dequantised by torch where there are none. Nothing is mixed or
read on the host more than once a step, and hidden states are those of the plain model with the same weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from redraft.api import Engine
from redraft.engine.memory import KVPool
from redraft.kernels.packed import Format
from redraft.kernels.triton import status as triton_status
from redraft.models import checkpoint
from redraft.models.base import Span
from redraft.models.on_device import DeviceModel
from redraft.models.packed_cache import load_packed
from redraft.models.quantize import quantize
from redraft.models.tokenizer import ChatTokenizer
from tests.gpu.pretend_device import NAME, PretendDevice
from tests.kernels.triton.conftest import INTERPRETED
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

pytestmark = pytest.mark.gpu

# The interpreter takes seconds for each forward: what kernels do in other formats, tests of kernels say.
WAYS = [pytest.param("triton", "int4", marks=INTERPRETED), ("torch", "int4"), ("torch", "int8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(
        tmp_path_factory.mktemp("model"), vocab_size=LETTERS_SIZE, letters=True, canvas_length=8,
        layer_types=("sliding_attention", "full_attention"), generation={"max_denoising_steps": 2},
    )  # fmt: skip


@pytest.fixture
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What computes: Triton's interpreter, or torch."""
    if request.param == "torch":
        monkeypatch.setenv("REDRAFT_KERNELS", "none")
    triton_status._status.cache_clear()
    yield request.param
    triton_status._status.cache_clear()


@pytest.mark.parametrize(("by", "format"), WAYS, indirect=["by"])
def test_a_prompt_and_a_canvas_give_the_plain_models_hidden_states(
    folder: Path, tmp_path: Path, by: str, format: Format
) -> None:
    quantize(checkpoint.read(folder), tmp_path / "packed", format)
    found = checkpoint.read(tmp_path / "packed")
    plain, device = found.load("float32"), PretendDevice()
    prompt, canvas = torch.arange(20, 32), torch.arange(40, 48)
    soft = torch.randn(8, found.config.hidden_size, generator=torch.Generator().manual_seed(0))  # type: ignore[attr-defined]

    def states(model: object, place: str) -> torch.Tensor:
        cache, _ = KVPool.of(model).open()  # type: ignore[arg-type]
        model.forward([Span(prompt.to(place), cache, "encode")])  # type: ignore[attr-defined]
        (hidden,) = model.forward([Span(canvas.to(place), cache, "denoise", soft.to(place))])  # type: ignore[attr-defined]
        return hidden.cpu()

    expected = states(plain, "cpu")
    with device.active():
        assert triton_status.status(NAME).used == (by == "triton")
        model = DeviceModel(load_packed(found, format), NAME)
        device.forget()
        found_states = states(model, NAME)
    # Nothing but what is fetched at the end.
    assert sum(device.reads.values()) == 1
    # Rows, keys and values are rounded to bfloat16 before each of some ten products in a row, by the interpreter with
    # an error of up to 2^-7. Norms keep hidden states at one: so many roundings, uncorrelated, come to some percent.
    # A row whose experts are nearly tied may take another of them, and is far off then: half of the rows are not.
    errors = (found_states - expected).square().mean(-1).sqrt() / expected.square().mean(-1).sqrt()
    assert errors.median() < 0.05
    if by == "triton":
        assert any("routed_linear" in name for name in device.launches)
    else:
        assert not any("redraft" in name for name in device.launches)


@pytest.mark.parametrize("by", ["torch"], indirect=True)
def test_a_step_of_generation_waits_once(folder: Path, by: str) -> None:
    tokenizer, device = ChatTokenizer.from_checkpoint(folder), PretendDevice()
    with device.active():
        engine = Engine(DeviceModel(load_packed(checkpoint.read(folder), "int4"), NAME), tokenizer, prefill_chunk=16)
        device.forget()
        answer = engine.generate("in the end", max_tokens=8, seed=1)
    assert sum(device.reads.values()) == answer.usage.denoising_steps + answer.usage.canvases
