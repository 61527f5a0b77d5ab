// Which instruction set is in use: the best one that was compiled in and that this processor and system allow.
#pragma once

#include "kernels.h"

namespace redraft {

enum Tier : int { generic = 0, avx2 = 1, avx512 = 2, amx = 3 };

// The table of the tier in use. Read it once per call from Python, so that one call never mixes tiers.
const Kernels& kernels();

}  // namespace redraft
