// x86-64 with the AVX-512 of isa_avx512.cpp and AMX tiles for bfloat16 and int8.
#define REDRAFT_TILES
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace {
constexpr int kRowsF32 = 12;
using redraft::kBlock;
using redraft::kGroup;
}  // namespace

#include "ahead.inc"
#include "isa_avx512.inc"
#include "isa_amx.inc"
#include "rows.inc"
#include "vector.inc"
#include "kernels.inc"
#include "token_classes.inc"
#include "readout.inc"
#include "class_draw.inc"

namespace redraft {

const Kernels* kernels_amx() {
    static const Kernels kernels{
        "amx", linear, experts, attention, readout, draw_from_classes, split_heads, add_normed, saturate,
        signal_format,
    };
    return &kernels;
}

}  // namespace redraft
