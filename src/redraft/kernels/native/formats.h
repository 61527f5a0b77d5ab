// Weights as Python packs them (kernels/packed.py), and what the kernels are called with. Plain C structures.
#pragma once

#include <cstdint>

namespace redraft {

enum Format : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2, kInt4 = 3 };

// What a gate is passed through before it multiplies what it gates.
enum Activation : int32_t { kNotGated = 0, kGeluTanh = 1, kSilu = 2 };

constexpr int64_t kBlock = 32;   // columns computed together: two panels of 16
constexpr int64_t kGroup = 32;   // inputs that share a scale and a minimum in kInt4
constexpr int64_t kTokens = 256;  // of a readout's tile, which stays in the cache
constexpr int64_t kRegion = 2048; // tokens, the fewest that masses of larger light classes are kept for

// A weight [outputs, inputs] in blocks of 32 outputs, each two panels of 16 outputs. A panel holds, for every 1, 2, 4
// or 8 inputs (by format), those of its 16 outputs side by side: a 64-byte row, which is an operand of the dot-product
// instructions and a row of an AMX tile alike. Both sizes are padded with zeros.
struct Matrix {
    int32_t format;
    int32_t gated;  // an Activation: panel 0 of a block belongs to a gate, panel 1 to what it gates, 16 outputs
    int64_t outputs;
    int64_t inputs;
    int64_t padded_outputs;  // of the blocks; a gated matrix has twice as many columns as outputs
    int64_t padded_inputs;
    const void* data;
    const void* scales;  // kInt8: float [padded_outputs]; kInt4: float16 [block][group], 32 scales and 32 minimums
    const float* bias;    // [padded_outputs], added to the product before a gate, or null
};

// An RMSNorm applied to the rows before a product: weight [inputs] or null, and its epsilon.
struct Norm {
    const float* weight;
    float epsilon;
};

// Heads that come out of a product, and what is done to each of their rows: a norm, a rotation, a scale.
struct Heads {
    int64_t heads, dim;
    const Norm* norm;          // or null for none
    const float* cosines;      // [positions there are, dim / 2], or null for no rotation
    const float* sines;
    const int64_t* positions;  // [rows]: which row of the table each is turned by, or null for its own number
    float scale;
    int32_t format;  // kFloat32 or kBFloat16
};

// What is added to a residual: a branch, or the sum of two, each normed first, and the whole once more, and the sum of
// it all multiplied by a scalar. Norms may be null.
struct Branches {
    const float* branch;
    const Norm* branch_norm;  // of a branch beside another
    const float* other;       // or null
    const Norm* other_norm;
    const Norm* norm;
    float scalar;
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
    int64_t query_stride;  // elements between the queries of one head and of the next
    const void* queries;   // [heads, length, head_dim]
    const Stretch* stretch;
    float* out;  // [length, heads * head_dim]
};

// Token classes as canvas/token_classes.py sorts them, and what a readout finds out about them; n = count.
struct Classes {
    int64_t count, heavy, middle, light;  // classes, heavy ones, larger light ones; tokens of light classes
    const int32_t* token_class;   // [outputs of the table]
    const int64_t* start;         // [n + 1]: where a class's tokens start
    const int32_t* tokens;        // [outputs of the table]: by class, ascending
    const int32_t* heavy_class;   // [heavy]
    const int32_t* middle_class;  // [middle]
    const int32_t* light_token;   // [light], ascending
    const int32_t* first;         // [n]: each class's first token, -1 for none
    float* mass;                  // [rows, n]: probability
    float* plogp;                 // [rows, n]: sum of p log p
    float* peak;                  // [rows, n]: largest log probability
    int64_t* argmax;              // [rows, n]: where it is
    float* references;            // [rows, tile_stride]: the processed logit that a tile's masses are relative to
    float* tile_masses;           // [rows, heavy + 1, tile_stride]: of heavy classes, and of all tokens last
    float* region_peaks;          // [regions, middle, rows to the next multiple of 16]: largest processed logit
    float* region_masses;         // the same shape: of each larger light class, relative to its peak in the region
};

// What requests do to the processed logits of their rows. Some tokens of a row are changed; all of its tokens may then
// be filtered, which leaves those from the largest down to where the row is cut.
struct Shaping {
    const int32_t* token;        // lists of tokens that are changed, each ascending
    const float* added;          // to their logits, after `factor`, -inf forbids the token
    const float* factor;         // by which logits above 0 are divided, and others multiplied
    const int64_t* first_token;  // [rows]: where a row's list starts
    const int64_t* first_value;  // [rows]: where what is done to its tokens starts
    const int64_t* changed;      // [rows]: tokens of its list
    const int64_t* top_k;        // [rows]: tokens that are left at most, 0 for all
    const double* top_p;         // [rows]: the fewest whose mass is this share or more, 1 for all
    const float* lowest;         // [rows]: relative to the largest logit, -inf for all
    float* cut;     // [rows to the next multiple of 16] or null: of the last that is left, -inf where none is taken out
    int32_t* last;  // the same shape: of the tokens with that logit, the last that is left
};

struct Readout {
    int64_t rows;
    const float* hidden;   // [rows, inputs of the table]
    const Matrix* table;   // the embedding: keys and values
    float softcap;  // 0 for none
    float embedding_scale;
    const float* temperatures;  // [rows]
    int32_t top_k;
    const double* uniforms;  // [rows] or null: the argmax is the sample
    const Classes* classes;  // or null
    const Shaping* shaping;  // or null
    int64_t* argmax;
    int64_t* sample;
    float* entropy;
    float* confidence;
    float* self_conditioning;  // [rows, inputs] or null
    int64_t* top_ids;     // [rows, top_k]
    float* top_logprobs;  // [rows, top_k]
};

// Tokens drawn within classes after a readout, at `count` of its positions.
struct ClassDraw {
    int64_t count, rows;
    const float* hidden;  // [rows, inputs of the table], as the other five were those of the readout
    const Matrix* table;
    float softcap;  // 0 for none
    const float* temperatures;  // [rows]
    const Classes* classes;
    const Shaping* shaping;   // or null
    const int64_t* position;  // [count]
    const int64_t* number;    // [count]: the class, -1 for any token
    const double* uniforms;   // [count]
    int64_t* tokens;          // [count]
};

}  // namespace redraft
