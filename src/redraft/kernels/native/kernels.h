// The kernels that exist once per instruction set. Each isa_*.cpp is compiled with its own flags and fills one table.
//
// Code of an isa_*.cpp must have internal linkage (an anonymous namespace around what it includes) and must not
// instantiate templates or inline functions of the standard library: the linker keeps one copy of those for the whole
// library, and a copy compiled for AVX-512 would crash a processor without it.
#pragma once

#include "formats.h"

namespace redraft {

// The list of kernels: what each returns, its name, its parameters and their names. Tables, tiers and C entries are
// made from it. What each does is said where it is written, in kernels.inc, readout.inc and class_draw.inc.
#define REDRAFT_KERNELS(KERNEL)                                                                                        \
    KERNEL(void, linear,                                                                                               \
           (const Matrix& w, const float* x, int64_t count, int64_t ldx, const Norm* norm, float* out, int64_t ldo),   \
           (w, x, count, ldx, norm, out, ldo))                                                                         \
    KERNEL(void, experts,                                                                                              \
           (const Matrix& up, const Matrix& down, int64_t expert_count, const float* x, int64_t count, int64_t ldx,    \
            const Norm* norm, const int64_t* chosen, const float* weights, int64_t top_k, float* out, int64_t ldo),    \
           (up, down, expert_count, x, count, ldx, norm, chosen, weights, top_k, out, ldo))                            \
    KERNEL(void, attention, (const Attention* calls, int64_t count), (calls, count))                                   \
    KERNEL(void, readout, (const Readout& a), (a))                                                                     \
    KERNEL(void, draw_from_classes, (const ClassDraw& d), (d))                                                         \
    KERNEL(void, split_heads, (const Heads& heads, const float* x, int64_t ldx, int64_t count, void* out),             \
           (heads, x, ldx, count, out))                                                                                \
    KERNEL(void, add_normed, (const Branches& branches, float* residual, int64_t count, int64_t width),                \
           (branches, residual, count, width))                                                                         \
    KERNEL(int64_t, saturate, (int32_t format, int64_t rounds), (format, rounds))                                      \
    KERNEL(int32_t, self_conditioning_format, (int32_t table_format), (table_format))

// The structures that Python lays out itself (kernels/interface.py), which are compared when it loads the library.
#define REDRAFT_STRUCTURES(STRUCTURE)                                                                                  \
    STRUCTURE(Matrix) STRUCTURE(Norm) STRUCTURE(Heads) STRUCTURE(Branches) STRUCTURE(Stretch) STRUCTURE(Attention)     \
    STRUCTURE(Classes) STRUCTURE(Shaping) STRUCTURE(Readout) STRUCTURE(ClassDraw) STRUCTURE(Layer)                     \
    STRUCTURE(ScaledRows) STRUCTURE(Stack) STRUCTURE(Kept) STRUCTURE(Context) STRUCTURE(Span) STRUCTURE(Chain)     \
    STRUCTURE(Expression) STRUCTURE(Walk)

// A table without kernels has only its name.
struct Kernels {
    const char* name;
#define KERNEL(result, name, parameters, arguments) result(*name) parameters;
    REDRAFT_KERNELS(KERNEL)
#undef KERNEL
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
