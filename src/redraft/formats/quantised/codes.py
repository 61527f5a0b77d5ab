"""The codes that weights are stored as, one or several to a byte or a word, and the numbers that they stand for."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# The magnitudes of e2m1, by the three lower bits; the fourth is the sign.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E8M0_BIAS, _E8M0_NAN = 127, 255
_WORD = 32


class Codes(Protocol):
    """A kind of codes: how wide a row of them is, and what they stand for before a scale is applied."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of the dtypes that they are stored in."""
        ...

    @property
    def bits(self) -> int:
        """Bits of one code."""
        ...

    @property
    def whole(self) -> bool:
        """True of whole numbers."""
        ...

    def width(self, inputs: int) -> int:
        """Return how many stored numbers a row of so many codes is."""
        ...

    def numbers(self, stored: Tensor, inputs: int) -> Tensor:
        """Decode rows [n, width] to [n, inputs]: int8 or uint8 for whole numbers, else float32."""
        ...


@dataclass(frozen=True)
class WordCodes:
    """Whole numbers of 1 to 8 bits in words of 32, the lowest bits first, without gaps between words."""

    bits: int
    signed: bool
    """True where q + 2^(bits - 1) is stored."""
    dtypes: tuple[str, ...]
    whole: bool = True

    def width(self, inputs: int) -> int:
        return -(-inputs * self.bits // _WORD)

    def numbers(self, stored: Tensor, inputs: int) -> Tensor:
        codes = _unpacked(stored, self.bits, inputs)
        return (codes.short() - (1 << (self.bits - 1))).to(torch.int8) if self.signed else codes


@dataclass(frozen=True)
class ByteCodes:
    """Whole numbers of ``bits`` bits or fewer, a byte each, with signs."""

    bits: int
    signed: bool
    """False where they are handed out as q + 2^(bits - 1): a zero point goes with them."""
    dtypes: tuple[str, ...] = ("I8",)
    whole: bool = True

    def width(self, inputs: int) -> int:
        return inputs

    def numbers(self, stored: Tensor, inputs: int) -> Tensor:
        return stored if self.signed else (stored.short() + (1 << (self.bits - 1))).to(torch.uint8)


@dataclass(frozen=True)
class Float8Codes:
    """Numbers in e4m3, a byte each, which may lie four to a word."""

    dtypes: tuple[str, ...] = ("F8_E4M3",)
    bits: int = 8
    whole: bool = False

    def width(self, inputs: int) -> int:
        return inputs // 4 if self.dtypes == ("U32",) else inputs

    def numbers(self, stored: Tensor, inputs: int) -> Tensor:
        return stored.contiguous().view(torch.float8_e4m3fn).float()


@dataclass(frozen=True)
class Float4Codes:
    """Numbers in e2m1, two to a byte, the even one in the lower half; bytes may lie four to a word."""

    dtypes: tuple[str, ...] = ("U8",)
    bits: int = 4
    whole: bool = False

    def width(self, inputs: int) -> int:
        return inputs // (8 if self.dtypes == ("U32",) else 2)

    def numbers(self, stored: Tensor, inputs: int) -> Tensor:
        codes = _unpacked(stored, 4, inputs)
        return torch.tensor([*_E2M1, *(-value for value in _E2M1)])[codes.long()]


def scale_values(stored: Tensor) -> Tensor:
    """Return scales as float32; bytes are powers of two, e8m0."""
    if stored.dtype != torch.uint8:
        return stored.float()
    powers = torch.exp2(stored.float() - _E8M0_BIAS)
    return torch.where(stored == _E8M0_NAN, torch.nan, powers)


def _unpacked(stored: Tensor, bits: int, inputs: int) -> Tensor:
    """Return the codes [n, inputs] of rows of bytes or words, uint8: the lowest bits first."""
    packed = stored.contiguous().view(torch.uint8)
    if bits in (1, 2, 4, 8):
        # They do not cross the borders of bytes.
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return (packed[..., None] >> shifts & (1 << bits) - 1).flatten(-2)[:, :inputs]
    # Eight codes in as many bytes as a code has bits: each lies in one byte or two.
    whole = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % bits + bits)).int()
    starts = torch.arange(whole.shape[-1] // bits * 8 - 8) * bits
    first, shift = starts // 8, starts % 8
    both = whole[:, first] | whole[:, first + 1] << 8
    return (both >> shift & (1 << bits) - 1).to(torch.uint8)[:, :inputs]
