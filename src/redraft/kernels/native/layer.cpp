#include "layer.h"

#include <cmath>

#include "dispatch.h"
#include "scratch.h"

namespace redraft {
namespace {

float* room(Slot slot, int64_t count) {
    return static_cast<float*>(scratch(slot, static_cast<size_t>(count) * sizeof(float)));
}

// The expert with the largest logit among those that are not among the first c chosen; of equal ones the lower. A NaN
// is chosen where nothing else is left.
int64_t next_expert(const float* logits, int64_t experts, const int64_t* chosen, int64_t c) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; e++) {
        bool taken = false;
        for (int64_t earlier = 0; earlier < c && !taken; earlier++) taken = chosen[earlier] == e;
        if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
    }
    return best;
}

// A row's experts and their weights: softmax over all, the top_k largest, made to add up to 1, times each one's scale.
// What is left out of the softmax cancels, so that only the chosen ones' exponentials are taken. Where all are chosen
// they keep their order.
void route(const float* logits, int64_t experts, int64_t top_k, const float* scale, int64_t* chosen, float* weights) {
    for (int64_t c = 0; c < top_k; c++) chosen[c] = top_k == experts ? c : next_expert(logits, experts, chosen, c);
    float most = logits[chosen[0]], total = 0.0f;
    for (int64_t c = 1; c < top_k; c++) most = logits[chosen[c]] > most ? logits[chosen[c]] : most;
    for (int64_t c = 0; c < top_k; c++) total += weights[c] = std::exp(logits[chosen[c]] - most);
    for (int64_t c = 0; c < top_k; c++) weights[c] = weights[c] / total * scale[chosen[c]];
}

}  // namespace

void project(const Layer& layer, const float* x, int64_t count, const float* cosines, const float* sines, void* queries,
             void* keys, void* values) {
    const Kernels& run = kernels();
    const int64_t width = layer.qkv.outputs, dim = layer.head_dim, apart = count * dim;
    const Norm norm{layer.input_norm, layer.epsilon};
    float* projected = room(Slot::projected, count * width);
    run.linear(layer.qkv, x, count, layer.hidden, &norm, projected, width);
    const float* own_keys = projected + layer.heads * dim;
    const float* own_values = layer.values_are_keys ? own_keys : own_keys + layer.kv_heads * dim;
    run.split_heads(projected, width, count, layer.heads, dim, layer.q_norm, layer.epsilon, cosines, sines,
                    layer.kv_format, queries, apart);
    run.split_heads(own_keys, width, count, layer.kv_heads, dim, layer.k_norm, layer.epsilon, cosines, sines,
                    layer.kv_format, keys, apart);
    run.split_heads(own_values, width, count, layer.kv_heads, dim, nullptr, layer.epsilon, nullptr, nullptr,
                    layer.kv_format, values, apart);
}

void finish(const Layer& layer, float* x, int64_t count, const float* context, const ScaledRows* rows,
            int64_t stretches) {
    const Kernels& run = kernels();
    const int64_t hidden = layer.hidden, inner = layer.gate_up.outputs, top_k = layer.top_k;
    const float epsilon = layer.epsilon;
    float* branch = room(Slot::branch, count * hidden);
    run.linear(layer.o, context, count, layer.o.inputs, nullptr, branch, hidden);
    run.add_normed(x, branch, nullptr, nullptr, nullptr, layer.post_attention, epsilon, 1.0f, count, hidden);

    const Norm dense{layer.dense_norm, epsilon}, plain{nullptr, epsilon}, experts{layer.experts_norm, epsilon};
    float* middle = room(Slot::projected, count * inner);
    run.linear(layer.gate_up, x, count, hidden, &dense, middle, inner);
    run.linear(layer.down, middle, count, inner, nullptr, branch, hidden);

    float* logits = room(Slot::projected, count * layer.experts);
    run.linear(layer.router, x, count, hidden, &plain, logits, layer.experts);
    const size_t chosen_bytes = static_cast<size_t>(count * top_k) * sizeof(int64_t);
    int64_t* chosen = static_cast<int64_t*>(scratch(Slot::routed, chosen_bytes));
    float* weights = room(Slot::route_weights, count * top_k);
    for (int64_t t = 0; t < count; t++)
        route(logits + t * layer.experts, layer.experts, top_k, layer.expert_scale, chosen + t * top_k,
              weights + t * top_k);
    float* mixed = room(Slot::mixed, count * hidden);
    run.experts(layer.experts_gate_up, layer.experts_down, layer.experts, x, count, hidden, &experts, chosen, weights,
                top_k, mixed, hidden);

    for (int64_t s = 0; s < stretches; s++) {
        const int64_t first = rows[s].start * hidden;
        run.add_normed(x + first, branch + first, layer.post_dense, mixed + first, layer.post_experts,
                       layer.post_feedforward, epsilon, rows[s].scalar, rows[s].end - rows[s].start, hidden);
    }
}

void denoise(const CanvasForward& forward, float* x) {
    for (int64_t i = 0; i < forward.layers; i++) {
        const Layer& layer = *forward.layer[i];
        const Attention& attention = forward.attention[i];
        const Stretch& own = attention.stretch[attention.stretches - 1];
        // Read by attention, and room for the step to write to.
        project(layer, x, forward.count, forward.cosines[i], forward.sines[i], const_cast<void*>(attention.queries),
                const_cast<void*>(own.keys), const_cast<void*>(own.values));
        kernels().attention(attention);
        const ScaledRows all{0, forward.count, forward.scalars[i]};
        finish(layer, x, forward.count, attention.out, &all, 1);
    }
}

}  // namespace redraft
