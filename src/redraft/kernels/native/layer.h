// A layer around its attention, in two calls: what leads to queries, keys and values, and what follows their context.
#pragma once

#include "formats.h"

namespace redraft {

// The weights of one layer (kernels/layer.py). A norm's weight has as many numbers as what it is applied to; a norm
// whose weight is null is left out.
struct Layer {
    Matrix qkv, o, gate_up, down, router, experts_gate_up, experts_down;
    int64_t hidden, heads, kv_heads, head_dim;
    int64_t experts, top_k;   // 0 experts: the dense branch is all there is
    int32_t values_are_keys;  // no value projection: the keys before their norm are the values
    int32_t values_normed;    // by a norm without a weight
    int32_t kv_format;        // of queries, keys and values: kFloat32 or kBFloat16
    float epsilon;
    float attention_scale;    // of the queries
    const float *input_norm, *q_norm, *k_norm, *post_attention, *dense_norm, *experts_norm;
    const float *post_dense, *post_experts, *post_feedforward;
    const float* expert_scale;  // [experts]
};

// Rows start .. end of a layer, which are multiplied by a scalar at its end.
struct ScaledRows {
    int64_t start, end;
    float scalar;
};

// x [count, hidden] -> queries [heads, count, head_dim], keys and values [kv_heads, count, head_dim] in kv_format.
// cosines and sines [positions there are, head_dim / 2]; positions [count]: which of them is each row's.
void project(const Layer& layer, const float* x, int64_t count, const float* cosines, const float* sines,
             const int64_t* positions, void* queries, void* keys, void* values);

// From the attention's context [count, heads * head_dim] on, in place on the residual x [count, hidden]; `rows` say
// what each row is multiplied by, and leave none out.
void finish(const Layer& layer, float* x, int64_t count, const float* context, const ScaledRows* rows,
            int64_t stretches);

}  // namespace redraft
