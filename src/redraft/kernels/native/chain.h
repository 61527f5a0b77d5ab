// Inference along a token automaton; constrain/inference/chain.py says what it is and is its specification.
#pragma once

#include <cstdint>

namespace redraft {

struct Chain {
    int64_t length, states, classes, groups;  // positions; states without END, whose number is `states`
    const int64_t* edge_start;                // [states + 1]
    const int32_t* edge_target;
    const int32_t* edge_group;
    const int64_t* group_start;  // [groups + 1]
    const int32_t* group_class;
    int64_t start;
    const double* end;                        // [states + 1]: log potentials
    const double *total, *spread, *peak;      // [length, classes]: of constrain.inference.Weights, as are the next two
    const double* best_tail;                  // [length]
    const double* uniforms;                   // [length, 2]
    int64_t *best_states, *sampled_states;    // [length + 1]
    int64_t *best_classes, *sampled_classes;  // [length]
    double* log_multiplier;                   // [length, classes]
    double *tail, *entropy;                   // [length]
    double *best_logprob, *log_valid;         // one number each
};

// Fills what the last five lines of the structure point to. Where no path leads to an end, best_logprob is -inf and the
// rest is left alone.
void infer(const Chain&);

// The same for a canvas whose gaps are revealed from their beginning on.
void infer_in_order(const Chain&);

}  // namespace redraft
