// x86-64 with AVX2, FMA and F16C.
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace {
constexpr int kRowsF32 = 6, kRowsBF16 = 4, kRowsI8 = 4, kRowsI4 = 4;
using redraft::kGroup;
}  // namespace

#include "ahead.inc"
#include "isa_avx2.inc"
#include "rows.inc"
#include "vector.inc"
#include "kernels.inc"
#include "token_classes.inc"
#include "readout.inc"
#include "class_draw.inc"

namespace redraft {

const Kernels* kernels_avx2() {
    static const Kernels kernels{
        "avx2", linear, experts, attention, readout, draw_from_classes, split_heads, add_normed, saturate,
        signal_format,
    };
    return &kernels;
}

}  // namespace redraft
