// Weights as Python packs them (kernels/packed.py), and what the kernels are called with. Plain C structures.
#pragma once

#include <cstdint>

namespace redraft {

enum Format : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2, kInt4 = 3 };

constexpr int64_t kBlock = 32;   // columns computed together: two panels of 16
constexpr int64_t kGroup = 128;  // inputs that share a scale in kInt4

// A weight [outputs, inputs] in blocks of 32 outputs, each two panels of 16 outputs. A panel holds, for every 1, 2, 4 or
// 8 inputs (by format), those of its 16 outputs side by side: a 64-byte row, which is an operand of the dot-product
// instructions and a row of an AMX tile alike. Both sizes are padded with zeros.
struct Matrix {
    int32_t format;
    int32_t gated;  // panel 0 of a block belongs to a gate, panel 1 to what it gates: 16 outputs gelu(gate) * up
    int64_t outputs;
    int64_t inputs;
    int64_t padded_outputs;  // of the blocks; a gated matrix has twice as many columns as outputs
    int64_t padded_inputs;
    const void* data;
    const float* scales;  // kInt8: [padded_outputs]; kInt4: [block][group][32]
};

// An RMSNorm applied to the rows before a product: weight [inputs] or null, and its epsilon.
struct Norm {
    const float* weight;
    float epsilon;
};

// Keys and values [heads, count, head_dim] of one stretch of positions, with the distance between heads in elements.
struct Stretch {
    const void* keys;
    const void* values;
    int64_t count;
    int64_t key_stride;
    int64_t value_stride;
    const uint8_t* mask;  // [queries of one head, count], 0 where unseen; null where all is seen
};

struct Attention {
    int32_t format;  // of queries, keys and values: kFloat32 or kBFloat16
    int32_t stretches;
    int64_t heads, kv_heads, length, head_dim;
    const void* queries;  // [heads, length, head_dim]
    const Stretch* stretch;
    float* out;  // [length, heads * head_dim]
};

struct Readout {
    int64_t rows;
    const float* hidden;   // [rows, inputs of the table]
    const Matrix* table;   // the embedding: keys and values
    float softcap, temperature, embedding_scale;
    int32_t top_k;
    const double* uniforms;  // [rows] or null: the argmax is the sample
    const int32_t* classes;  // [outputs of the table] or null
    int64_t class_count;
    int64_t* argmax;
    int64_t* sample;
    float* entropy;
    float* confidence;
    float* signal;        // [rows, inputs] or null
    int64_t* top_ids;     // [rows, top_k]
    float* top_logprobs;  // [rows, top_k]
    float* class_mass;    // [rows, class_count]: probability
    float* class_plogp;   // [rows, class_count]: sum of p log p
    float* class_peak;    // [rows, class_count]: largest log probability
};

}  // namespace redraft
