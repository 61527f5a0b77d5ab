// x86-64 with AVX-512 F, BW, VL, DQ, BF16 and VNNI.
#define REDRAFT_BYTE_SUMS
#include "cache.h"
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace {
constexpr int kRowsF32 = 12, kRowsBF16 = 8, kRowsI8 = 8, kRowsI4 = 8, kRowsU8 = 6;
using redraft::kGroup;
}  // namespace

#include "ahead.inc"
#include "isa_avx512.inc"

#define REDRAFT_TIER avx512
#include "tier.inc"
