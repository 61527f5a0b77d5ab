"""Weights as kernels take them: a tile of a packed matrix, of any format, decoded on the way to a product.

The layout is that of ``kernels.packed``: panels of 16 outputs, in which some consecutive inputs of each output lie side
by side. A 32-bit word holds 8, 4, 2 or 1 of them (int4, int8, bfloat16, float32). The format is known when a kernel is
compiled, so that a kernel has the code of its own alone.
"""

import triton
import triton.language as tl


@triton.jit
def decoded(data, scales, panel, lane, there, first, padded, FORMAT: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Inputs ``first`` to ``first + K`` of N outputs -> float32 [N, K]; of int8 the whole numbers, without their scale.

    data: int32 words of one matrix; scales: its scales. ``panel`` and ``lane`` [N]: where each output stands, if it is
    ``there``. padded: inputs with what they are padded by, whose values are of no use.
    """
    if FORMAT == "int4":
        words = _words(data, panel, lane, there, first // 8, padded // 8, N, K // 8)
        # The lower halves of a word's four bytes, then the upper ones.
        place = tl.arange(0, 8)
        whole = (words[:, :, None] >> (place % 4 * 8 + place // 4 * 4)[None, None, :]) & 15
        group = first // 32 + tl.arange(0, K // 32)
        known = there[:, None] & (group < padded // 32)[None, :]
        at = (panel // 2 * (padded // 32))[:, None] * 64 + group[None, :] * 64 + (panel % 2 * 16 + lane)[:, None]
        scale = tl.load(scales + at, mask=known, other=0.0).to(tl.float32)
        minimum = tl.load(scales + at + 32, mask=known, other=0.0).to(tl.float32)
        grouped = tl.reshape(whole, (N, K // 32, 32)).to(tl.float32)
        found = tl.reshape(grouped * scale[:, :, None] + minimum[:, :, None], (N, K))
    elif FORMAT == "int8":
        words = _words(data, panel, lane, there, first // 4, padded // 4, N, K // 4)
        whole = (words[:, :, None] >> (tl.arange(0, 4) * 8)[None, None, :]) & 255
        found = tl.reshape(whole - 128, (N, K)).to(tl.float32)
    elif FORMAT == "bfloat16":
        words = _words(data, panel, lane, there, first // 2, padded // 2, N, K // 2)
        # A bfloat16 is the upper half of a float32.
        halves = (words[:, :, None] >> (tl.arange(0, 2) * 16)[None, None, :]) << 16
        found = tl.reshape(halves, (N, K)).to(tl.float32, bitcast=True)
    else:
        tl.static_assert(FORMAT == "float32", "a format that nothing decodes")
        found = _words(data, panel, lane, there, first, padded, N, K).to(tl.float32, bitcast=True)
    return found


@triton.jit
def _words(data, panel, lane, there, first, count, N: tl.constexpr, WORDS: tl.constexpr):
    """Words ``first`` and following, of the ``count`` of each output -> int32 [N, WORDS]."""
    word = first + tl.arange(0, WORDS)
    at = (panel[:, None] * count + word[None, :]) * 16 + lane[:, None]
    return tl.load(data + at, mask=there[:, None] & (word < count)[None, :], other=0)
