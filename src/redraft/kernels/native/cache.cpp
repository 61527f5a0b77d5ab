#include "cache.h"

#ifdef __linux__
#include <unistd.h>
#endif

namespace redraft {
namespace {

int64_t detect() {
    long found = 0;
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
    found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    constexpr int64_t usual = 1 << 20;
    return found > 0 ? found : usual;
}

}  // namespace

int64_t cache_bytes() {
    static const int64_t bytes = detect();
    return bytes;
}

}  // namespace redraft
