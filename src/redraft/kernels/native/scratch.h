// Buffers that live as long as their thread, so that a step allocates nothing after the first.
#pragma once

#include <cstddef>

namespace redraft {

// One for each use: what stands in a slot is never another kernel's, nor another thing of the same one.
enum class Slot {
    // linear, and what it takes of any kernel's rows
    rows, row_scales, row_sums, row_values, group_scales,
    // experts
    expert_plan, gathered, gathered_scales, gathered_sums, activated, middle_rows, middle_scales, middle_sums,
    middle_values, expert_results,
    // attention
    attention_queries, attention_scores, attention_weights, attention_block, attention_tail, attention_sums,
    // split_heads, add_normed, saturate
    head_values, branch_values, busy_counts,
    // readout
    scaled_hidden, running, masses, means, top, tile_scores, tile_weights, tile_values, tile_units,
    // where rows are cut
    cut_scores, cut_counts, cut_masses, cut_heap, cut_left, dense_rows,
    // sums by token class
    heavy_sums, light_sums, light_rows, light_logits, light_order, light_totals,
    // draw_from_classes
    draw_hidden, draw_gains, draw_positions, draw_order, draw_masses, draw_scores, class_kinds, light_draws, light_draw_logits,
    // a layer
    projected, branch, dense_inner, router_logits, mixed, routed, route_weights,
    // forward
    queries, own_keys, own_values, context, positions, calls, stretches,
    // infer
    choices, groups, messages,
    count
};

// At least `bytes`, aligned to 64; the content of an earlier call of the same slot on this thread is kept only where
// the buffer need not grow.
void* scratch(Slot slot, std::size_t bytes);

}  // namespace redraft
