"""Every type is decoded to what its definition says, number by number, and as the ``gguf`` package does."""

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from redraft.errors import CheckpointError
from redraft.formats.gguf.blocks import TYPES, check_extent, grid, read_rows, read_tensor, type_name
from redraft.formats.gguf.header import Extent, Header, read_header
from redraft.kernels.whole_numbers import WholeNumbers, as_int4
from tests.gguf_files import gemma3_path, smollm2_path

# https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h: the fields of a block, and here what they stand for.
Decoder = Callable[[bytes], list[float]]


def half(block: bytes, at: int) -> float:
    return float(struct.unpack_from("<e", block, at)[0])


def nibbles(packed: bytes) -> list[int]:
    """Low halves of all bytes, then high ones."""
    return [byte & 15 for byte in packed] + [byte >> 4 for byte in packed]


def q4_0(b: bytes) -> list[float]:
    return [half(b, 0) * (q - 8) for q in nibbles(b[2:18])]


def q4_1(b: bytes) -> list[float]:
    return [half(b, 0) * q + half(b, 2) for q in nibbles(b[4:20])]


def q5_0(b: bytes) -> list[float]:
    high = int.from_bytes(b[2:6], "little")
    return [half(b, 0) * ((q | (high >> i & 1) << 4) - 16) for i, q in enumerate(nibbles(b[6:22]))]


def q8_0(b: bytes) -> list[float]:
    return [half(b, 0) * q for q in struct.unpack_from("<32b", b, 2)]


def k_scales(packed: bytes) -> list[tuple[int, int]]:
    """Eight scales and eight minima of six bits each, in twelve bytes."""
    low = [(packed[i] & 63, packed[i + 4] & 63) for i in range(4)]
    high = [(packed[i + 8] & 15 | packed[i] >> 6 << 4, packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4) for i in range(4)]
    return low + high


def q4_k(b: bytes) -> list[float]:
    found = []
    for group, (scale, minimum) in enumerate(k_scales(b[4:16])):
        packed = b[16 + 32 * (group // 2) : 48 + 32 * (group // 2)]
        whole = nibbles(packed)[32 * (group % 2) :][:32]
        found += [half(b, 0) * scale * q - half(b, 2) * minimum for q in whole]
    return found


def q5_k(b: bytes) -> list[float]:
    found, high = [], b[16:48]
    for group, (scale, minimum) in enumerate(k_scales(b[4:16])):
        packed = b[48 + 32 * (group // 2) : 80 + 32 * (group // 2)]
        whole = [q | (high[i] >> group & 1) << 4 for i, q in enumerate(nibbles(packed)[32 * (group % 2) :][:32])]
        found += [half(b, 0) * scale * q - half(b, 2) * minimum for q in whole]
    return found


def q6_k(b: bytes) -> list[float]:
    low, high, scales = b[:128], b[128:192], struct.unpack_from("<16b", b, 192)
    found = []
    for i in range(256):
        part, inside = divmod(i, 128)
        row, column = divmod(inside, 32)
        own = low[64 * part + 32 * (row % 2) + column]
        own = own & 15 if row < 2 else own >> 4
        top = high[32 * part + column] >> 2 * row & 3
        found.append(half(b, 208) * scales[i // 16] * ((own | top << 4) - 32))
    return found


DECODERS: dict[str, Decoder] = {
    "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q8_0": q8_0, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k,
}  # fmt: skip
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def file_of(path: Path, content: bytes, kind: Kind, shape: tuple[int, ...]) -> Header:
    path.write_bytes(bytes(32) + content)
    return Header(path, {}, {"x": Extent(shape, int(kind), 32)})


def random_blocks(kind: Kind, count: int) -> bytes:
    """Any bytes, but that their scales are numbers of ordinary size."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(int(kind)).integers(0, 256, (count, size), dtype=np.uint8)
    for at in {"Q6_K": [208], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}.get(kind.name, [0]):
        # The exponent of a half, of which the highest bit and the lowest two stay.
        blocks[:, at + 1] = blocks[:, at + 1] & 0b10000111 | 0b00110000
    return blocks.tobytes()


def test_every_type_that_is_read_is_tested():
    assert {*DECODERS, *PLAIN} == set(TYPES.values())
    assert all(Kind(number).name == name for number, name in TYPES.items())


@pytest.mark.parametrize("name", DECODERS)
def test_blocks_are_what_their_definition_says(tmp_path: Path, name: str):
    kind = Kind[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    content = random_blocks(kind, 12)
    found = read_tensor(file_of(tmp_path / "x.gguf", content, kind, (2, 3, 2 * block)), "x")
    expected = [value for at in range(0, len(content), size) for value in DECODERS[name](content[at : at + size])]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected).view(2, 3, -1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_a_long_tensor_is_decoded_in_parts_as_the_package_does_at_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("redraft.formats.gguf.blocks._AT_A_TIME", 1000)
    kind = Kind[name]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    content = random_blocks(kind, 39)
    found = read_tensor(file_of(tmp_path / "x.gguf", content, kind, (13, 3 * block)), "x")
    theirs = gguf.dequantize(np.frombuffer(content, np.uint8).reshape(13, -1), kind)
    assert torch.equal(found, torch.from_numpy(theirs))


@pytest.mark.parametrize("name", DECODERS)
def test_some_rows_of_one_matrix_are_those_of_the_whole(tmp_path: Path, name: str):
    """Those whose blocks are int4's are handed out in the whole numbers that they are."""
    kind = Kind[name]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    header = file_of(tmp_path / "x.gguf", random_blocks(kind, 18), kind, (2, 3, 3 * block))
    whole, rows = read_tensor(header, "x"), torch.tensor([2, 0])
    found = read_rows(header, "x", 1, rows)
    assert isinstance(found, WholeNumbers) == (name in ("Q4_0", "Q4_1"))
    assert (grid(name) is not None) == isinstance(found, WholeNumbers)
    if isinstance(found, WholeNumbers):
        moved = as_int4(found)
        assert moved is not None
        assert torch.equal(moved.scales.float(), found.scales.float())
        found = found.values()
    torch.testing.assert_close(found, whole[1, rows], rtol=1e-6, atol=0)


def test_what_dynamic_files_mix_in_and_is_not_read_is_named_with_what_would_work(tmp_path: Path):
    header = Header(tmp_path / "x.gguf", {}, {"blk.0.ffn_down_exps.weight": Extent((2, 256), int(Kind.IQ4_XS), 0)})
    with pytest.raises(CheckpointError, match=r"ffn_down_exps\.weight is stored as IQ4_XS; .*such as Q8_0 or Q4_K_M"):
        type_name(header, "blk.0.ffn_down_exps.weight")


@pytest.mark.parametrize("name", PLAIN)
def test_plain_tensors_keep_their_dtype(tmp_path: Path, name: str):
    value = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(PLAIN[name])
    header = file_of(tmp_path / "x.gguf", value.view(torch.uint8).numpy().tobytes(), Kind[name], (3, 5))
    found = read_tensor(header, "x")
    assert found.dtype == value.dtype
    assert torch.equal(found, value)


@pytest.mark.slow
def test_every_tensor_of_the_real_files_lies_behind_the_one_before(tmp_path: Path):
    for path in (smollm2_path(), gemma3_path(tmp_path)):
        header = read_header(path)
        for name in header.extents:
            check_extent(header, name)
        starts = [one.offset for one in header.extents.values()]
        assert all(a < b for a, b in pairwise(starts))
