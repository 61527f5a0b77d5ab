// How much a core keeps close by, which decides how many rows are multiplied at a time. No result depends on it.
#pragma once

#include <cstdint>

namespace redraft {

// Bytes of a core's second-level cache.
int64_t cache_bytes();

}  // namespace redraft
