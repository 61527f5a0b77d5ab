#include "forward.h"

#include <cstring>

#include "dispatch.h"
#include "scratch.h"

namespace redraft {
namespace {

template <class T>
T* room(Slot slot, int64_t count) {
    return static_cast<T*>(scratch(slot, static_cast<size_t>(count) * sizeof(T)));
}

// Queries, keys and values of all rows in one layer, head by head, and what attention makes of them.
struct RowHeads {
    int64_t rows, item;
    char *queries, *keys, *values;
    float* out;
};

RowHeads room_for_heads(const Layer& layer, int64_t rows) {
    const int64_t item = layer.kv_format == kFloat32 ? 4 : 2, each = rows * layer.head_dim * item;
    return {rows, item,
            room<char>(Slot::queries, layer.heads * each),
            room<char>(Slot::own_keys, layer.kv_heads * each),
            room<char>(Slot::own_values, layer.kv_heads * each),
            room<float>(Slot::context, rows * layer.heads * layer.head_dim)};
}

// Copies the keys and values of the rows from `row` on to where they are kept.
void keep(const Layer& layer, const RowHeads& heads, int64_t row, const Context& context) {
    const int64_t width = layer.head_dim * heads.item;
    for (int64_t part = 0; part < context.parts; part++) {
        const Kept& kept = context.kept[part];
        for (int64_t h = 0; h < layer.kv_heads; h++) {
            const int64_t from = (h * heads.rows + row) * width;
            memcpy(static_cast<char*>(kept.keys) + h * kept.key_stride * heads.item, heads.keys + from,
                   kept.count * width);
            memcpy(static_cast<char*>(kept.values) + h * kept.value_stride * heads.item, heads.values + from,
                   kept.count * width);
        }
        row += kept.count;
    }
}

// Attention of each span from `first` on, of which `row` is the first row, over its context, and of a canvas over
// itself. The results of the first of them are the first in heads.out.
void attend(const Layer& layer, const RowHeads& heads, const Span* spans, int64_t first, int64_t count, int64_t encoded,
            int64_t layer_index, int64_t row) {
    int64_t stretches = 0;
    for (int64_t s = first; s < count; s++) stretches += spans[s].context[layer_index].stretches + 1;
    Attention* calls = room<Attention>(Slot::calls, count - first);
    Stretch* stretch = room<Stretch>(Slot::stretches, stretches);
    const int64_t width = layer.head_dim * heads.item, apart = heads.rows * layer.head_dim;
    float* out = heads.out;
    for (int64_t s = first; s < count; s++) {
        const Span& span = spans[s];
        const Context& context = span.context[layer_index];
        const int64_t own = s >= encoded, from = row * width;
        if (context.stretches) memcpy(stretch, context.stretch, context.stretches * sizeof(Stretch));
        if (own)
            stretch[context.stretches] = {heads.keys + from, heads.values + from, span.count, apart, apart, nullptr};
        calls[s - first] = {layer.kv_format,
                            static_cast<int32_t>(context.stretches + own),
                            layer.heads,
                            layer.kv_heads,
                            span.count,
                            layer.head_dim,
                            apart,
                            heads.queries + from,
                            stretch,
                            out};
        stretch += context.stretches + own;
        out += span.count * layer.heads * layer.head_dim;
        row += span.count;
    }
    kernels().attention(calls, count - first);
}

}  // namespace

void forward(const Stack& stack, const Span* spans, int64_t count, int64_t encoded, int64_t dropped, float* x) {
    int64_t rows = 0, encoded_rows = 0, dropped_rows = 0;
    for (int64_t s = 0; s < count; s++) {
        rows += spans[s].count;
        if (s < encoded) encoded_rows = rows;
        if (s < dropped) dropped_rows = rows;
    }
    int64_t* positions = room<int64_t>(Slot::positions, rows);
    for (int64_t s = 0, row = 0; s < count; s++)
        for (int64_t t = 0; t < spans[s].count; t++) positions[row++] = spans[s].position + t;

    for (int64_t i = 0; i < stack.layers; i++) {
        const Layer& layer = *stack.layer[i];
        const RowHeads heads = room_for_heads(layer, rows);
        project(layer, x, rows, stack.cosines[i], stack.sines[i], positions, heads.queries, heads.keys, heads.values);
        for (int64_t s = 0, row = 0; s < encoded; s++) {
            keep(layer, heads, row, spans[s].context[i]);
            row += spans[s].count;
        }
        const bool last = i + 1 == stack.layers;
        const int64_t first = last ? dropped_rows : 0, left = rows - first;
        if (left == 0) continue;
        attend(layer, heads, spans, last ? dropped : 0, count, encoded, i, first);
        const int64_t border = encoded_rows - first;
        const ScaledRows scaled[] = {{0, border, stack.encode_scalars[i]}, {border, left, stack.scalars[i]}};
        finish(layer, x + first * layer.hidden, left, heads.out, scaled, 2);
    }
}

}  // namespace redraft
