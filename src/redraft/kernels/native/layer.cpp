#include "layer.h"

#include <algorithm>
#include <cmath>

#include "dispatch.h"
#include "scratch.h"
#include "threads.h"

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
    float max = logits[chosen[0]], total = 0.0f;
    for (int64_t c = 1; c < top_k; c++) max = logits[chosen[c]] > max ? logits[chosen[c]] : max;
    for (int64_t c = 0; c < top_k; c++) total += weights[c] = std::exp(logits[chosen[c]] - max);
    for (int64_t c = 0; c < top_k; c++) weights[c] = weights[c] / total * scale[chosen[c]];
}

// The experts of every row and their weights, [count, top_k] each.
struct Routes {
    int64_t* chosen;
    float* weights;
};

Routes route_rows(const Layer& layer, const float* logits, int64_t count) {
    const int64_t experts = layer.experts, top_k = layer.top_k;
    const size_t chosen_bytes = static_cast<size_t>(count * top_k) * sizeof(int64_t);
    const Routes routes{static_cast<int64_t*>(scratch(Slot::routed, chosen_bytes)),
                        room(Slot::route_weights, count * top_k)};
    const auto some = [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; t++)
            route(logits + t * experts, experts, top_k, layer.expert_scale, routes.chosen + t * top_k,
                  routes.weights + t * top_k);
    };
    // One pass over the experts for each choice: of many rows it is worth sharing.
    constexpr int64_t kWorthSharing = 1 << 18;
    if (count * experts * top_k < kWorthSharing)
        some(0, count);
    else
        parallel_for(static_cast<int>((count + 15) / 16),
                     [&](int64_t task) { some(task * 16, std::min(count, task * 16 + 16)); });
    return routes;
}

// A norm by the layer's epsilon, that is not there where it has no weight.
struct OptionalNorm {
    OptionalNorm(const Layer& layer, const float* weight) : norm{weight, layer.epsilon} {}
    const Norm* get() const { return norm.weight ? &norm : nullptr; }
    Norm norm;
};

}  // namespace

void project(const Layer& layer, const float* x, int64_t count, const float* cosines, const float* sines,
             const int64_t* positions, void* queries, void* keys, void* values) {
    const Kernels& run = kernels();
    const int64_t width = layer.qkv.outputs, dim = layer.head_dim;
    const OptionalNorm input(layer, layer.input_norm), q(layer, layer.q_norm), k(layer, layer.k_norm);
    const Norm plain{nullptr, layer.epsilon};
    float* projected = room(Slot::projected, count * width);
    run.linear(layer.qkv, x, count, layer.hidden, input.get(), projected, width);
    const float* own_keys = projected + layer.heads * dim;
    const float* own_values = layer.values_are_keys ? own_keys : own_keys + layer.kv_heads * dim;
    const float scale = layer.attention_scale;
    const int32_t format = layer.kv_format;
    run.split_heads({layer.heads, dim, q.get(), cosines, sines, positions, scale, format}, projected, width, count,
                    queries);
    run.split_heads({layer.kv_heads, dim, k.get(), cosines, sines, positions, 1.0f, format}, own_keys, width, count,
                    keys);
    const Norm* v = layer.values_normed ? &plain : nullptr;
    run.split_heads({layer.kv_heads, dim, v, nullptr, nullptr, nullptr, 1.0f, format}, own_values, width, count,
                    values);
}

void finish(const Layer& layer, float* x, int64_t count, const float* context, const ScaledRows* rows,
            int64_t stretches) {
    const Kernels& run = kernels();
    const int64_t hidden = layer.hidden, inner = layer.gate_up.outputs;
    float* branch = room(Slot::branch, count * hidden);
    run.linear(layer.o, context, count, layer.o.inputs, nullptr, branch, hidden);
    const OptionalNorm post_attention(layer, layer.post_attention);
    run.add_normed({branch, nullptr, nullptr, nullptr, post_attention.get(), 1.0f}, x, count, hidden);

    const OptionalNorm dense(layer, layer.dense_norm);
    float* middle = room(Slot::dense_inner, count * inner);
    run.linear(layer.gate_up, x, count, hidden, dense.get(), middle, inner);
    run.linear(layer.down, middle, count, inner, nullptr, branch, hidden);

    float* mixed = nullptr;
    if (layer.experts) {
        const Norm plain{nullptr, layer.epsilon};
        const OptionalNorm experts(layer, layer.experts_norm);
        float* logits = room(Slot::router_logits, count * layer.experts);
        run.linear(layer.router, x, count, hidden, &plain, logits, layer.experts);
        const Routes routes = route_rows(layer, logits, count);
        mixed = room(Slot::mixed, count * hidden);
        run.experts(layer.experts_gate_up, layer.experts_down, layer.experts, x, count, hidden, experts.get(),
                    routes.chosen, routes.weights, layer.top_k, mixed, hidden);
    }

    const OptionalNorm post_dense(layer, layer.post_dense), post_experts(layer, layer.post_experts);
    const OptionalNorm post_feedforward(layer, layer.post_feedforward);
    for (int64_t s = 0; s < stretches; s++) {
        const int64_t first = rows[s].start * hidden;
        run.add_normed({branch + first, post_dense.get(), mixed ? mixed + first : nullptr, post_experts.get(),
                        post_feedforward.get(), rows[s].scalar},
                       x + first, rows[s].end - rows[s].start, hidden);
    }
}

}  // namespace redraft
