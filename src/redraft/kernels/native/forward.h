// A forward over the rows of many spans, through all layers in one call.
#pragma once

#include "layer.h"

namespace redraft {

// All layers of a model (kernels/forward.py), each array [layers].
struct Stack {
    int64_t layers;
    const Layer* const* layer;
    const float* const* cosines;  // of every position there is: [positions, head_dim / 2] of the layer
    const float* const* sines;
    const float* scalars;         // what the rows of a canvas are multiplied by at a layer's end
    const float* encode_scalars;  // and those that are encoded
};

// Where some of the keys and values of a layer, rows one after the other, are kept of a span that is encoded.
struct Kept {
    void* keys;
    void* values;
    int64_t count;
    int64_t key_stride;  // elements between heads
    int64_t value_stride;
};

// What a span sees of its cache in one layer, and, where it is encoded, where its keys and values are kept. An encoded
// span sees itself there as well; a canvas sees itself beside what is in `stretch`.
struct Context {
    const Stretch* stretch;
    int64_t stretches;
    const Kept* kept;
    int64_t parts;
};

// Rows of one request: tokens that are encoded, or a canvas.
struct Span {
    int64_t count;           // rows, which follow those of the span before
    int64_t position;        // of the first row
    const Context* context;  // [layers]
};

// In place on the residual x [rows of all spans, hidden]. The first `encoded` of the spans are encoded, and of the first
// `dropped` of those nobody wants rows: in the last layer they leave keys and values only, so that their rows of x are
// of no use afterwards.
void forward(const Stack& stack, const Span* spans, int64_t count, int64_t encoded, int64_t dropped, float* x);

}  // namespace redraft
