"""Packing by the stream: known before it is made, made in little memory, gone on with, and all that is needed."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import redraft
from redraft.errors import CheckpointError, RoomError
from redraft.formats import streamed
from redraft.formats.safetensors import WEIGHTS_FILE
from redraft.formats.streamed import read_header, unfinished
from redraft.kernels.packed import FORMATS, Format
from redraft.models import checkpoint, packed_file, quantize, verified
from redraft.models.cache_folder import FOLDER
from redraft.models.packed_cache import load_packed
from redraft.models.packed_file import PackedFile
from redraft.models.packing import Packing, packed_bytes, packing_peak
from tests.conftest import WriteCheckpoint
from tests.models.driving import denoise, fresh

SUDOKU = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


@pytest.fixture(scope="module")
def sudoku() -> checkpoint.Checkpoint:
    return checkpoint.read(checkpoint.find("sudoku"))


@pytest.fixture
def packed(sudoku: checkpoint.Checkpoint, tmp_path: Path) -> Path:
    quantize.quantize(sudoku, tmp_path / "out", "int4")
    return tmp_path / "out"


def logits(folder: Path, format: Format) -> Tensor:
    model = load_packed(checkpoint.read(folder), format, cached_from=0)
    return model.logits(denoise(model, torch.arange(20, 28), fresh(model)))


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_the_size_of_a_file_is_known_from_headers(sudoku: checkpoint.Checkpoint, tmp_path: Path, format: Format):
    told: list[tuple[int, int]] = []
    quantize.quantize(sudoku, tmp_path / "out", format, on_bytes=lambda *one: told.append(one))
    assert packed_bytes(sudoku, format) == (tmp_path / "out" / WEIGHTS_FILE).stat().st_size
    assert told == sorted(told)
    assert told[0] == (0, packed_bytes(sudoku, format))


def test_in_int4_what_is_worth_more_has_eight_bits(packed: Path):
    """All but the experts; routers stay as they are."""
    header = json.loads(read_header(packed / WEIGHTS_FILE)["__metadata__"]["redraft"])
    formats = {name: own["format"] for name, own in header["matrices"].items()}
    four = {name for name, format in formats.items() if format == "int4"}
    assert {name.split(".", 2)[2] for name in four} == {"experts.gate_up", "experts.down"}
    assert {name.split(".", 2)[2] for name, format in formats.items() if format == "float32"} == {"router"}
    assert {"embed_tokens", "self_conditioning.gate_up", "layers.0.qkv", "layers.0.o"} < formats.keys() - four


def live_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    storages = {}
    for one in gc.get_objects():
        if issubclass(type(one), Tensor) and one.device.type == "cpu":
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_no_more_is_in_memory_than_the_largest_tensor_and_a_piece(
    checkpoint_of: WriteCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a checkpoint whose packed file is many times as large as any of its tensors."""
    folder = checkpoint_of(
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=128,
        vocab_size=512,
        num_experts=8,
        layer_types=("sliding_attention", "full_attention") * 3,
    )
    found, seen, adds = checkpoint.read(folder), list[int](), list[str]()
    add = streamed._Writer.add

    def counted(writer: streamed._Writer, name: str, piece: Tensor) -> None:
        # To look at all objects takes a while.
        adds.append(name)
        if len(adds) % 25 == 0:
            seen.append(live_bytes())
        add(writer, name, piece)

    monkeypatch.setattr("redraft.kernels.packed._AT_A_TIME", 1 << 14)
    monkeypatch.setattr("redraft.models.packing._AT_A_TIME", 1 << 14)
    monkeypatch.setattr(streamed._Writer, "add", counted)
    before = live_bytes()
    Packing(found, "int8").write(tmp_path / "packed.safetensors")
    largest = max(4 * torch.Size(tensor.shape).numel() for tensor in found.tensors.values())
    assert largest == 4 * 8 * 2 * 128 * 128
    assert len(seen) > 5
    assert max(seen) - before < largest + 500_000
    assert packed_bytes(found, "int8") > 3 * largest
    assert packing_peak(found, "int8") > largest


def test_what_was_packed_before_a_stop_is_not_packed_again(
    sudoku: checkpoint.Checkpoint, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, total = tmp_path / "again", packed_bytes(sudoku, "int4")

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize.quantize(sudoku, out, "int4", on_bytes=stop)
    assert unfinished(out / WEIGHTS_FILE).exists()
    assert not (out / WEIGHTS_FILE).exists()
    told: list[int] = []
    quantize.quantize(sudoku, out, "int4", on_bytes=lambda done, total: told.append(done))
    assert told[0] > total // 2
    assert (out / WEIGHTS_FILE).read_bytes() == (packed / WEIGHTS_FILE).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in packed.iterdir())


def test_a_full_disk_leaves_nothing(sudoku: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise streamed.NoRoomError("the disk was full")

    monkeypatch.setattr("redraft.formats.streamed._fill", full)
    with pytest.raises(CheckpointError, match="the disk was full"):
        quantize.quantize(sudoku, tmp_path / "out", "int8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="the disk was full"):
        quantize.quantize(sudoku, tmp_path / "empty", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not list((tmp_path / "empty").iterdir())


def test_a_disk_without_room_is_refused_before_anything_is_read(
    sudoku: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(RoomError, match="make room"):
        quantize.quantize(sudoku, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_weights_load_dequantised(packed: Path, dtype: checkpoint.DType):
    """As a plain model, with the numbers that the packed ones stand for, routers without what was multiplied in."""
    plain = checkpoint.read(packed).load(dtype).state_dict()
    original = checkpoint.read(checkpoint.find("sudoku")).load("float32").state_dict()
    matrices = PackedFile(packed / WEIGHTS_FILE).matrices()
    experts = matrices["layers.0.experts.gate_up"].unpacked().to(plain["norm.weight"].dtype)
    assert torch.equal(plain["layers.0.experts.gate_up_proj"], experts)
    rounding = 1e-6 if dtype == "float32" else 0.01
    torch.testing.assert_close(
        plain["layers.3.router.proj.weight"].float(), original["layers.3.router.proj.weight"], rtol=rounding, atol=1e-6
    )
    for name, value in original.items():
        error = (plain[name].float() - value).square().mean().sqrt() / value.square().mean().sqrt()
        assert error < 0.11, name
    with redraft.load(packed, dtype=dtype) as engine:
        answer = engine.generate([{"role": "user", "content": SUDOKU}], seed=7)
    assert answer.text.startswith("534678912\n672195348\n")


@pytest.mark.parametrize("format", FORMATS)
def test_the_weight_files_are_not_needed_afterwards(
    checkpoint_of: WriteCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Format
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(checkpoint_of(), tmp_path / "model")
    expected = logits(folder, format)
    (folder / "model.safetensors").unlink()
    found = checkpoint.read(folder)
    assert (found.packed, found.packed_path) == (format, folder / FOLDER / packed_file.file_name(format))
    assert torch.equal(logits(folder, format), expected)


def flip(path: Path, name: str) -> None:
    """Flip a bit of a tensor."""
    header, content = read_header(path), bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little") + header[name]["data_offsets"][0]
    content[start + 5] ^= 8
    path.write_bytes(content)


def test_a_flipped_bit_is_named_when_a_file_is_first_used(packed: Path):
    flip(packed / WEIGHTS_FILE, "packed.layers.2.o.data")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor packed\.layers\.2\.o\.data is damaged"):
        redraft.load(packed)


def test_a_file_is_verified_once_and_again_when_it_changed(packed: Path, monkeypatch: pytest.MonkeyPatch):
    path, read = packed / WEIGHTS_FILE, list[Path]()
    monkeypatch.setattr("redraft.formats.streamed.verify", read.append)
    for _ in range(2):
        verified.verify_once(path, kept_from=0)
    assert read == [path]
    path.touch()
    verified.verify_once(path, kept_from=0)
    assert read == [path, path]
    verified.verify_once(path)
    verified.verify_once(path)
    assert len(read) == 4, "a small one is read each time"


def set_version(path: Path) -> None:
    content = path.read_bytes()
    text = f'\\"version\\": {packed_file.VERSION}'.encode()
    assert text in content
    path.write_bytes(content.replace(text, b'\\"version\\": 9', 1))


def mix(path: Path) -> None:
    """The weights of another shape of model."""
    config = json.loads((path.parent / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    config["text_config"]["layer_types"] = config["text_config"]["layer_types"][1:]
    (path.parent / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has [0-9,]+ bytes, and by its header"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "damaged or cut short"),
        (set_version, "of version 9 of packed files, and this version of redraft reads up to 2"),
        (mix, r"tensor model\.decoder\.layers\..* has no place in the model"),
        (Path.unlink, "its weights are missing"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_loaded(packed: Path, damage: Callable[[Path], object], words: str):
    damage(packed / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read(packed)


def test_a_folder_that_cannot_be_written_is_an_oserror(sudoku: checkpoint.Checkpoint, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        quantize.quantize(sudoku, tmp_path / "file" / "out", "int8")


def test_a_group_that_there_is_none_of_is_refused(sudoku: checkpoint.Checkpoint, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"a group of 128 inputs is not supported.*give 32"):
        quantize.quantize(sudoku, tmp_path / "out", "int4", group=128)
