// x86-64 with AVX2, FMA and F16C.
#include "cache.h"
#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace {
constexpr int kRowsF32 = 6, kRowsBF16 = 4, kRowsI8 = 4, kRowsI4 = 4;
using redraft::kGroup;
}  // namespace

#include "ahead.inc"
#include "isa_avx2.inc"

#define REDRAFT_TIER avx2
#include "tier.inc"
