// x86-64 with the AVX-512 of isa_avx512.cpp and AMX tiles for bfloat16 and int8.
#define REDRAFT_TILES
#include "cache.h"
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

#define REDRAFT_TIER amx
#include "tier.inc"
