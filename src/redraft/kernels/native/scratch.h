// Buffers that live as long as their thread, so that a step allocates nothing after the first.
#pragma once

#include <cstddef>

namespace redraft {

enum class Slot { rows, row_scales, row_sums, inner, gathered, outputs, scores, weights, values, units, running,
                  partial, masses, plan, ranks, choices, groups, messages, heavy_sums, light_sums, light_rows,
                  light_logits, light_order, projected, branch, mixed, routed, route_weights, count };

// At least `bytes`, aligned to 64; the content of an earlier call of the same slot on this thread is kept only where
// the buffer need not grow.
void* scratch(Slot slot, std::size_t bytes);

}  // namespace redraft
