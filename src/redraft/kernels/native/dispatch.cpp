// Detection of the processor's instruction sets, and the C entries that report and lower the tier in use.
#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "abi.h"

#ifdef REDRAFT_HAVE_AVX2
#include <cpuid.h>
#endif
#if defined(REDRAFT_HAVE_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace redraft {
namespace {

#ifdef REDRAFT_HAVE_AVX2

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero for a leaf that the processor does not have.
Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers found;
    if (!__get_cpuid_count(leaf, subleaf, &found.eax, &found.ebx, &found.ecx, &found.edx)) return {};
    return found;
}

constexpr unsigned bit(int position) { return 1u << position; }

constexpr bool all(unsigned value, unsigned wanted) { return (value & wanted) == wanted; }

// The register state that the system saves on a context switch (XCR0); without it the instructions fault.
std::uint64_t saved_state() {
    std::uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t{high} << 32 | low;
}

// Linux gives a process the tile registers only on request. It refuses where a thread's signal stack is too small.
bool tiles_permitted() {
#if defined(REDRAFT_HAVE_AMX) && defined(__linux__)
    constexpr int arch_req_xcomp_perm = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
#else
    return false;
#endif
}

Tier detect() {
    constexpr unsigned fma = bit(12), xsave_enabled = bit(27), avx = bit(28), f16c = bit(29);
    const Registers basic = cpuid(1, 0), extended = cpuid(7, 0);
    if (!all(basic.ecx, fma | xsave_enabled | avx | f16c) || !all(extended.ebx, bit(5))) return generic;
    const std::uint64_t saved = saved_state();
    constexpr std::uint64_t vectors = 0x06, wide_vectors = 0xe6, tiles = 0x60000;
    if ((saved & vectors) != vectors) return generic;

    // AVX-512 F, DQ, BW, VL; VNNI; BF16 (which stands in subleaf 1, where eax of subleaf 0 says that there is one).
    constexpr unsigned foundation = bit(16) | bit(17) | bit(30) | bit(31), vnni = bit(11), bf16 = bit(5);
    const unsigned more = extended.eax >= 1 ? cpuid(7, 1).eax : 0;
    if (!all(extended.ebx, foundation) || !all(extended.ecx, vnni) || !all(more, bf16)) return avx2;
    if ((saved & wide_vectors) != wide_vectors) return avx2;

    constexpr unsigned amx_bf16 = bit(22), amx_tile = bit(24), amx_int8 = bit(25);
    if (!all(extended.edx, amx_bf16 | amx_tile | amx_int8)) return avx512;
    if ((saved & tiles) != tiles || !tiles_permitted()) return avx512;
    return amx;
}

#else

Tier detect() { return generic; }

#endif

const Kernels* table(int tier) {
    switch (tier) {
#ifdef REDRAFT_HAVE_AMX
        case amx: return kernels_amx();
#endif
#ifdef REDRAFT_HAVE_AVX512
        case avx512: return kernels_avx512();
#endif
#ifdef REDRAFT_HAVE_AVX2
        case avx2: return kernels_avx2();
#endif
        default: return kernels_generic();
    }
}

int compiled() {
#if defined(REDRAFT_HAVE_AMX)
    return amx;
#elif defined(REDRAFT_HAVE_AVX512)
    return avx512;
#elif defined(REDRAFT_HAVE_AVX2)
    return avx2;
#else
    return generic;
#endif
}

int best() {
    static const int tier = std::min<int>(detect(), compiled());
    return tier;
}

std::atomic<int>& tier_in_use() {
    static std::atomic<int> tier{best()};
    return tier;
}

}  // namespace

const Kernels& kernels() { return *table(tier_in_use().load(std::memory_order_relaxed)); }

}  // namespace redraft

REDRAFT_EXPORT int redraft_best_tier() { return redraft::best(); }

REDRAFT_EXPORT int redraft_tier() { return redraft::tier_in_use().load(); }

// Uses the given tier, or the nearest that this processor has, and returns it.
REDRAFT_EXPORT int redraft_set_tier(int tier) {
    const int chosen = std::clamp<int>(tier, redraft::generic, redraft::best());
    redraft::tier_in_use().store(chosen);
    return chosen;
}
