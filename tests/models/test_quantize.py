"""A quantised checkpoint computes what its original does in that format, bit for bit, and is mapped as it is."""

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import redraft
from redraft.errors import CheckpointError
from redraft.formats.gguf.blocks import read_rows
from redraft.formats.gguf.header import Header
from redraft.formats.safetensors import WEIGHTS_FILE
from redraft.formats.tensors import Rows
from redraft.kernels.packed import Format
from redraft.kernels.whole_numbers import WholeNumbers
from redraft.models import checkpoint, packed_file, registry
from redraft.models.base import Span
from redraft.models.checkpoint import DType
from redraft.models.packed_cache import load_packed
from redraft.models.quantize import FORMATS, quantize
from redraft.models.sizing import parameters, part_bytes
from tests.gguf_files import diffusion_gemma_gguf, gemma3_gguf
from tests.models.driving import encoded
from tests.models.llama_diffusion.conftest import CONFIGS
from tests.models.llama_diffusion.conftest import write as write_llama
from tests.models.toy.config import ARCHITECTURE
from tests.models.toy.conftest import write as write_toy
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint
from tests.random_gemma import random_gemma

PACKED: tuple[Format, ...] = ("int8", "int4")


def gemma(folder: Path) -> Path:
    return random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE + 3, dtype=torch.bfloat16)


def gguf(folder: Path) -> Path:
    return diffusion_gemma_gguf(folder.with_suffix(".gguf"), random_checkpoint(folder, letters=True, vocab_size=340))


def gemma3(folder: Path) -> Path:
    return gemma3_gguf(folder.with_suffix(".gguf"), random_gemma(folder, "gemma3", published_layers=True))


ORIGINALS: dict[str, Callable[[Path], Path]] = {
    "diffusion_gemma": gemma,
    "llama_diffusion, tied": lambda folder: write_llama(folder, CONFIGS["tied"]),
    "llama_diffusion, untied": lambda folder: write_llama(folder, CONFIGS["untied, llama3"]),
    "a family with biases": write_toy,
    "a GGUF file": gguf,
    "gemma, beside a vision tower": lambda folder: random_gemma(folder, "gemma4 with vision"),
    "gemma, a GGUF file": gemma3,
}


@pytest.fixture(params=ORIGINALS)
def original(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> checkpoint.Checkpoint:
    monkeypatch.setitem(registry.FAMILIES, ARCHITECTURE, "tests.models.toy.family")
    return checkpoint.read(ORIGINALS[request.param](tmp_path / "original"))


def logits(found: checkpoint.Checkpoint, format: Format) -> torch.Tensor:
    model = load_packed(found, format)
    prompt, canvas = torch.arange(3, 40), torch.arange(20, 28)
    rows, cache = torch.cat((prompt[len(prompt) - model.reread :], canvas)), encoded(model, prompt)
    span = Span(rows, cache, "denoise", reread=model.reread)
    if "diffusion" not in model.modes:
        span = Span(canvas, cache, "encode", wanted=len(canvas))
    with torch.inference_mode():
        (hidden,) = model.forward([span])
    assert hidden is not None
    return model.logits(hidden)


@pytest.mark.parametrize("format", PACKED)
def test_what_is_loaded_has_the_bits_of_the_original_packed(
    original: checkpoint.Checkpoint, tmp_path: Path, format: Format
):
    quantize(original, tmp_path / "out", format)
    found = checkpoint.read(tmp_path / "out")
    assert (found.packed, found.format("auto"), found.config) == (format, format, original.config)
    assert parameters(found) == parameters(original)
    assert part_bytes(found, format) == part_bytes(original, format)
    assert torch.equal(logits(found, format), logits(original, format))
    assert not list((tmp_path / "out").glob(".*")), "nothing is packed again"


def test_bfloat16_is_a_plain_checkpoint(original: checkpoint.Checkpoint, tmp_path: Path):
    quantize(original, tmp_path / "out", "bfloat16")
    found = checkpoint.read(tmp_path / "out")
    assert (found.packed, found.stored) == (None, torch.bfloat16)
    state, own = original.load("float32").state_dict(), found.load("float32").state_dict()
    assert all(torch.equal(own[name], value.bfloat16().float()) for name, value in state.items())


@pytest.mark.parametrize("format", FORMATS)
def test_the_bundled_model_answers_as_it_did(tmp_path: Path, format: Format):
    folder = tmp_path / "out"
    quantize(checkpoint.read(checkpoint.find("sudoku")), folder, format)
    puzzle = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    answers = []
    pairs: list[tuple[str | Path, DType]] = [
        ("sudoku", "float32" if format == "bfloat16" else format),
        (folder, "auto"),
    ]
    for name, dtype in pairs:
        with redraft.load(name, dtype=dtype) as engine:
            answers.append(engine.generate([{"role": "user", "content": puzzle}], seed=7))
    assert answers[0].text == answers[1].text
    assert len(answers[0].text) > 81


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_matrices_are_mapped_from_the_file_and_begin_with_a_vector(tmp_path: Path):
    quantize(checkpoint.read(checkpoint.find("sudoku")), tmp_path / "out", "int8")
    matrices = packed_file.PackedFile(tmp_path / "out" / WEIGHTS_FILE).matrices()
    assert str(tmp_path / "out" / WEIGHTS_FILE) in Path("/proc/self/maps").read_text()
    assert all(matrix.data.data_ptr() % 64 == 0 for matrix in matrices.values())


def test_another_dtype_is_refused(tmp_path: Path):
    quantize(checkpoint.read(checkpoint.find("sudoku")), tmp_path / "out", "int8")
    with pytest.raises(CheckpointError, match="holds int8 weights, from which 'int4' cannot be made"):
        redraft.load(tmp_path / "out", dtype="int4")
    found = checkpoint.read(tmp_path / "out")
    with pytest.raises(CheckpointError, match="has packed weights only"):
        found.load()
    with pytest.raises(CheckpointError, match="quantise the checkpoint it was made of"):
        quantize(found, tmp_path / "again", "int4")
    with pytest.raises(CheckpointError, match="'float32' is no format to quantise to"):
        quantize(checkpoint.read(checkpoint.find("sudoku")), tmp_path / "x", "float32")
    plain = shutil.copytree(checkpoint.find("sudoku"), tmp_path / "plain")
    with pytest.raises(CheckpointError, match="is where the checkpoint lies"):
        quantize(checkpoint.read(plain), plain, "int8")


@pytest.mark.parametrize("use", [load_packed, lambda found, format: quantize(found, found.path.parent / "out", format)])
def test_no_more_is_read_at_a_time_than_one_matrix_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[checkpoint.Checkpoint, Format], object]
):
    """Of a file whose tensors are decoded, some rows for one matrix alone are there at a time: queries, keys and
    values."""
    found = checkpoint.read(gguf(tmp_path / "original"))
    alive: list[weakref.ref[object]] = []
    most = []

    def counted(header: Header, name: str, number: int, rows: Rows) -> torch.Tensor | WholeNumbers:
        read = read_rows(header, name, number, rows)
        alive.append(weakref.ref(read))
        most.append(sum(kept() is not None for kept in alive))
        return read

    monkeypatch.setattr("redraft.formats.gguf.file.read_rows", counted)
    use(found, "int8")
    assert len(alive) > 30
    assert max(most) <= 3


def set_format(folder: Path, format: str) -> None:
    path = folder / "config.json"
    fields = {"quantization_config": {"quant_method": "redraft", "format": format}}
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def set_layout(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    path.write_bytes(content.replace(f'\\"layout\\": {packed_file.LAYOUTS["int8"]}'.encode(), b'\\"layout\\": 0', 1))


def plain_weights(folder: Path) -> None:
    shutil.copy(checkpoint.find("sudoku") / WEIGHTS_FILE, folder)


def set_hidden(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["intermediate_size"] *= 2
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (set_layout, "layout 0 of int8, and this version of redraft reads layout 3"),
        (lambda folder: set_format(folder, "int4"), "they are int4"),
        (lambda folder: set_format(folder, "int3"), "'int3' is unknown"),
        (plain_weights, "has no packed matrices"),
        (set_hidden, "has shape"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], words: str):
    folder = tmp_path / "out"
    quantize(checkpoint.read(checkpoint.find("sudoku")), folder, "int8")
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read(folder)
