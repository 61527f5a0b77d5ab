// The kernels that exist once per instruction set. Each isa_*.cpp is compiled with its own flags and fills one table.
//
// Code of an isa_*.cpp must have internal linkage (an anonymous namespace around what it includes) and must not
// instantiate templates or inline functions of the standard library: the linker keeps one copy of those for the whole
// library, and a copy compiled for AVX-512 would crash a processor without it.
#pragma once

#include "formats.h"

namespace redraft {

// What each does is said where it is written, in kernels.inc. A table without kernels has only its name.
struct Kernels {
    const char* name;
    void (*linear)(const Matrix&, const float* x, int64_t count, int64_t ldx, const Norm*, float* out, int64_t ldo);
    void (*experts)(const Matrix& up, const Matrix& down, int64_t expert_count, const float* x, int64_t count,
                    int64_t ldx, const Norm*, const int64_t* chosen, const float* weights, int64_t top_k, float* out,
                    int64_t ldo);
    void (*attention)(const Attention&);
    void (*readout)(const Readout&);
    void (*draw_from_classes)(const ClassDraw&);
    void (*split_heads)(const float* x, int64_t ldx, int64_t count, int64_t heads, int64_t dim, const float* weight,
                        float epsilon, const float* cosines, const float* sines, int32_t format, void* out,
                        int64_t head_stride);
    void (*add_normed)(float* residual, const float* branch, const float* branch_weight, const float* other,
                       const float* other_weight, const float* weight, float epsilon, float scalar, int64_t count,
                       int64_t width);
    int64_t (*saturate)(int32_t format, int64_t rounds);
    int32_t (*signal_format)(int32_t table_format);
};

const Kernels* kernels_generic();
#ifdef REDRAFT_HAVE_AVX2
const Kernels* kernels_avx2();
#endif
#ifdef REDRAFT_HAVE_AVX512
const Kernels* kernels_avx512();
#endif
#ifdef REDRAFT_HAVE_AMX
const Kernels* kernels_amx();
#endif

}  // namespace redraft
