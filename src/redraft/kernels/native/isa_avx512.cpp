// x86-64 with AVX-512 F, BW, VL, DQ, BF16 and VNNI.
#define REDRAFT_BYTE_SUMS
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace {
constexpr int kRowsF32 = 12, kRowsBF16 = 8, kRowsI8 = 8, kRowsI4 = 8, kRowsU8 = 6;
using redraft::kGroup;
}  // namespace

#include "ahead.inc"
#include "isa_avx512.inc"
#include "rows.inc"
#include "vector.inc"
#include "kernels.inc"
#include "token_classes.inc"
#include "readout.inc"
#include "class_draw.inc"

namespace redraft {

const Kernels* kernels_avx512() {
    static const Kernels kernels{
        "avx512", linear, experts, attention, readout, draw_from_classes, split_heads, add_normed, saturate,
        signal_format,
    };
    return &kernels;
}

}  // namespace redraft
