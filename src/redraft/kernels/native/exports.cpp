// The C entries that run kernels. Python checks shapes and types before it calls (kernels/*.py).
#include "abi.h"
#include "chain.h"
#include "dispatch.h"
#include "layer.h"

using namespace redraft;

REDRAFT_EXPORT void redraft_linear(const Matrix* w, const float* x, int64_t count, int64_t ldx, const Norm* norm,
                                   float* out, int64_t ldo) {
    kernels().linear(*w, x, count, ldx, norm, out, ldo);
}

REDRAFT_EXPORT void redraft_experts(const Matrix* up, const Matrix* down, int64_t expert_count, const float* x,
                                    int64_t count, int64_t ldx, const Norm* norm, const int64_t* chosen,
                                    const float* weights, int64_t top_k, float* out, int64_t ldo) {
    kernels().experts(*up, *down, expert_count, x, count, ldx, norm, chosen, weights, top_k, out, ldo);
}

REDRAFT_EXPORT void redraft_attention(const Attention* a) { kernels().attention(*a); }

REDRAFT_EXPORT void redraft_readout(const Readout* a) { kernels().readout(*a); }

REDRAFT_EXPORT void redraft_draw_from_classes(const ClassDraw* d) { kernels().draw_from_classes(*d); }

REDRAFT_EXPORT void redraft_split_heads(const float* x, int64_t ldx, int64_t count, int64_t heads, int64_t dim,
                                        const float* weight, float epsilon, const float* cosines, const float* sines,
                                        int32_t format, void* out, int64_t head_stride) {
    kernels().split_heads(x, ldx, count, heads, dim, weight, epsilon, cosines, sines, format, out, head_stride);
}

REDRAFT_EXPORT void redraft_add_normed(float* residual, const float* branch, const float* branch_weight,
                                       const float* other, const float* other_weight, const float* weight,
                                       float epsilon, float scalar, int64_t count, int64_t width) {
    kernels().add_normed(residual, branch, branch_weight, other, other_weight, weight, epsilon, scalar, count, width);
}

REDRAFT_EXPORT void redraft_project(const Layer* layer, const float* x, int64_t count, const float* cosines,
                                    const float* sines, void* queries, void* keys, void* values) {
    project(*layer, x, count, cosines, sines, queries, keys, values);
}

REDRAFT_EXPORT void redraft_finish(const Layer* layer, float* x, int64_t count, const float* context,
                                   const ScaledRows* rows, int64_t stretches) {
    finish(*layer, x, count, context, rows, stretches);
}

REDRAFT_EXPORT void redraft_denoise(const CanvasForward* forward, float* x) { denoise(*forward, x); }

REDRAFT_EXPORT void redraft_infer(const Chain* c) { infer(*c); }

REDRAFT_EXPORT int32_t redraft_signal_format(int32_t table_format) { return kernels().signal_format(table_format); }

REDRAFT_EXPORT int64_t redraft_saturate(int32_t format, int64_t rounds) { return kernels().saturate(format, rounds); }
