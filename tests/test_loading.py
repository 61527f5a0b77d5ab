"""``redraft.load``: which model a dtype, a device and the kernels come to, and that all of them answer."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch

import redraft
from redraft import loading
from redraft.engine.memory import KVPool
from redraft.errors import CheckpointError, RoomError
from redraft.kernels import bindings
from redraft.loading import share_out
from redraft.models import checkpoint
from redraft.models.base import Span
from redraft.models.checkpoint import DType
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.footprint import Use, footprint
from redraft.models.on_device import DeviceModel
from redraft.models.packed import PackedModel
from tests.random_checkpoint import random_checkpoint

PUZZLE = "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5 ....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
USE = Use(512)
needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="no kernels here")
with_and_without = pytest.mark.parametrize(
    "without", [pytest.param(False, marks=needs_kernels, id="kernels"), pytest.param(True, id="torch")]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "kernels", lambda: None)


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "format"),
    [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("int4", "int4")],
)
def test_with_kernels_every_dtype_has_packed_weights(folder: Path, dtype: DType, format: str):
    model = redraft.load(folder, dtype=dtype).model
    assert isinstance(model, PackedModel)
    assert model.format == format


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("auto", DiffusionGemma),
        ("float32", DiffusionGemma),
        ("bfloat16", DiffusionGemma),
        ("int8", PackedModel),
        ("int4", PackedModel),
    ],
)
def test_without_kernels_only_the_lossy_dtypes_have_packed_weights(
    folder: Path, dtype: DType, kind: type, monkeypatch: pytest.MonkeyPatch
):
    torch_only(monkeypatch)
    assert type(redraft.load(folder, dtype=dtype).model) is kind


def test_another_device_computes_the_plain_model(folder: Path):
    model = redraft.load(folder, device="meta").model
    assert isinstance(model, DiffusionGemma)
    assert model.device.type == "meta"


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_another_device_computes_with_packed_weights_as_they_are(folder: Path, dtype: DType):
    model = redraft.load(folder, dtype=dtype, device="meta").model
    assert isinstance(model, DeviceModel)
    matrices = [model.parts.layers[0].qkv, model.parts.layers[0].experts_down]
    assert {matrix.data.device.type for matrix in matrices if matrix is not None} == {"meta"}
    assert matrices[1] is not None
    assert matrices[1].format == dtype


def test_an_unknown_dtype_lists_the_choices(folder: Path):
    known = re.escape("choose one of 'auto', 'float32', 'bfloat16', 'int8', 'int4'")
    with pytest.raises(CheckpointError, match=f"dtype 'float16' is not supported; {known}"):
        redraft.load(folder, dtype="float16")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["shared", "per_query"])
@with_and_without
def test_the_window_policy_reaches_the_model(folder: Path, policy: str, without: bool, monkeypatch: pytest.MonkeyPatch):
    """Of a prompt that the window of 8 has left behind: the first step's entropies are those of the plain model with
    the same policy, and not those with the other."""
    if without:
        torch_only(monkeypatch)
    prompt = list(range(20, 50))
    engine = redraft.load(folder, window_policy=policy)  # type: ignore[arg-type]
    seen: list[redraft.StepEvent] = []
    engine.generate(prompt, seed=1, max_tokens=4, max_denoising_steps=1, on_step=seen.append)
    close = {}
    for own in ("shared", "per_query"):
        model = checkpoint.read(folder).load(options={"window_policy": own})
        cache, _ = KVPool.of(model).open()
        with torch.no_grad():
            spans = [Span(torch.tensor(prompt), cache, "encode"), Span(seen[0].tokens_in, cache, "denoise")]
            _, hidden = model.forward(spans)
            assert hidden is not None
            logits = model.logits(hidden) / seen[0].temperature
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        close[own] = torch.allclose(entropy, seen[0].entropy, atol=1e-4, rtol=0)
    assert close == {"shared": policy == "shared", "per_query": policy == "per_query"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@with_and_without
def test_the_bundled_model_solves_an_easy_puzzle_in_every_dtype(
    dtype: DType, without: bool, monkeypatch: pytest.MonkeyPatch
):
    if without:
        torch_only(monkeypatch)
    engine = redraft.load("sudoku", dtype=dtype)
    answer = engine.generate([{"role": "user", "content": PUZZLE}], seed=1, max_tokens=90)
    assert re.sub(r"\D", "", answer.text) == SOLUTION


@needs_kernels
def test_kernels_and_torch_answer_alike_in_float32(monkeypatch: pytest.MonkeyPatch):
    question = [{"role": "user", "content": PUZZLE}]
    ours = redraft.load("sudoku", dtype="float32").generate(question, seed=3, max_tokens=90)
    torch_only(monkeypatch)
    theirs = redraft.load("sudoku", dtype="float32").generate(question, seed=3, max_tokens=90)
    assert ours.token_ids == theirs.token_ids
    assert ours.usage.denoising_steps == theirs.usage.denoising_steps


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("other"), seed=1)


class TestTogether:
    """Several models, and a model and the one that drafts for it, are judged together before weights are read."""

    @pytest.fixture
    def unread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(*_: object) -> None:
            raise AssertionError("weights are read")

        monkeypatch.setattr(loading, "_load_model", read)

    def test_what_does_not_fit_beside_another_is_refused_by_name(self, folder: Path, other: Path, unread: None):
        one, two = (footprint(checkpoint.read(own), "float32", USE) for own in (folder, other))
        both = one.running + two.needed
        assert max(one.needed, two.needed) < both - 1, "each fits alone"
        share = partial(share_out, [folder, other], dtype="float32")
        with pytest.raises(RoomError, match=f"{other} as float32 takes .*, beside {folder} \\(.* MB\\), has .* left"):
            share(memory=both - 1)
        assert share(memory=both) == [both, both - one.running]
        assert share(memory=None) == [None, None]
        assert share(memory="auto") == ["auto", "auto"]

    def test_keys_and_values_that_are_shared_count_once(self, folder: Path, other: Path, unread: None):
        one, two = (footprint(checkpoint.read(own), "float32", USE) for own in (folder, other))
        kv_bytes = 100 * one.keys_values
        needed = one.beside_keys_values + two.beside_keys_values + kv_bytes
        share = partial(share_out, [folder, other], dtype="float32", kv_bytes=kv_bytes)
        assert share(memory=needed) == [needed, needed - one.beside_keys_values]
        with pytest.raises(RoomError, match=f"{other} as float32 takes"):
            share(memory=needed - 1)

    def test_each_loads_into_its_share(self, folder: Path, other: Path):
        one, two = (footprint(checkpoint.read(own), "float32", USE) for own in (folder, other))
        both = one.running + two.needed
        for source, memory in zip((folder, other), share_out([folder, other], memory=both), strict=True):
            with redraft.load(source, memory=memory) as engine:
                assert engine.runtime.pool.budget is not None

    def test_the_environments_limit_is_shared_out(self, folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch):
        one = footprint(checkpoint.read(folder), "float32", USE)
        monkeypatch.setenv("REDRAFT_MEMORY", "1GB")
        assert share_out([folder, other]) == [10**9, 10**9 - one.running]

    def test_a_draft_model_has_to_fit_beside_the_model(self, folder: Path, other: Path, unread: None):
        one, two = (footprint(checkpoint.read(own), "float32", USE) for own in (folder, other))
        both = one.running + two.running
        with pytest.raises(RoomError, match=f"{folder} as float32 .*, beside the draft model {other} \\(.* MB\\), has"):
            redraft.load(folder, draft_model=other, memory=both - 1)
        with pytest.raises(AssertionError, match="are read"):
            redraft.load(folder, draft_model=other, memory=both)

    def test_a_draft_models_weights_are_not_the_keys_and_values(self, folder: Path, other: Path):
        two = footprint(checkpoint.read(other), "float32", USE)
        with redraft.load(folder, memory=10**9) as alone, redraft.load(folder, draft_model=other, memory=10**9) as both:
            rooms = alone.runtime.pool.budget, both.runtime.pool.budget
            assert rooms[0] is not None
            assert rooms[1] is not None
            assert rooms[0] - rooms[1] == pytest.approx(0.9 * two.running, rel=0.01)
