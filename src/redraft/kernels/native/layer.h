// A layer around its attention, in two calls: what leads to queries, keys and values, and what follows their context.
#pragma once

#include "formats.h"

namespace redraft {

// The weights of one layer (kernels/layer.py). Norms' weights have as many numbers as what they are applied to.
struct Layer {
    Matrix qkv, o, gate_up, down, router, experts_gate_up, experts_down;
    int64_t hidden, heads, kv_heads, head_dim, experts, top_k;
    int32_t values_are_keys;  // no value projection: the keys before their norm are the values
    int32_t kv_format;        // of queries, keys and values: kFloat32 or kBFloat16
    float epsilon;
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
// cosines and sines [count, head_dim / 2].
void project(const Layer& layer, const float* x, int64_t count, const float* cosines, const float* sines, void* queries,
             void* keys, void* values);

// From the attention's context [count, heads * head_dim] on, in place on the residual x [count, hidden]; `rows` say
// what each row is multiplied by, and leave none out.
void finish(const Layer& layer, float* x, int64_t count, const float* context, const ScaledRows* rows,
            int64_t stretches);

// What a denoising step does with a canvas between its embedding and the last norm: all layers, one after the other.
// The last stretch of each layer's attention is the canvas itself, whose queries, keys and values are written here.
struct CanvasForward {
    int64_t layers, count;
    const Layer* const* layer;
    const Attention* attention;
    const float* const* cosines;
    const float* const* sines;
    const float* scalars;
};

// In place on the residual x [count, hidden].
void denoise(const CanvasForward& forward, float* x);

}  // namespace redraft
