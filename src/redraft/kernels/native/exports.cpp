// The C entries that compute, and what Python asks before it calls any. Python checks shapes and types (kernels/*.py).
#include <cstring>

#include "abi.h"
#include "automaton.h"
#include "chain.h"
#include "dispatch.h"
#include "forward.h"
#include "monoid.h"

using namespace redraft;

// A hash of the headers that this was compiled with; CMakeLists.txt computes it, and kernels/library.py the same where
// the headers are at hand.
REDRAFT_EXPORT const char* redraft_abi() { return REDRAFT_HEADERS; }

// Bytes of a structure, or the value of a constant, that Python has too; -1 for what there is none of by the name.
REDRAFT_EXPORT int64_t redraft_layout(const char* name) {
    struct Known {
        const char* name;
        int64_t value;
    };
#define STRUCTURE(type) {#type, sizeof(type)},
    static const Known known[] = {
        REDRAFT_STRUCTURES(STRUCTURE) {"kBlock", kBlock},
        {"kGroup", kGroup},
        {"kTokens", kTokens},
        {"kRegion", kRegion},
    };
#undef STRUCTURE
    for (const Known& one : known)
        if (std::strcmp(one.name, name) == 0) return one.value;
    return -1;
}

// The kernels of the tier in use. A reference is a pointer to C.
#define KERNEL(result, name, parameters, arguments) \
    REDRAFT_EXPORT result redraft_##name parameters { return kernels().name arguments; }
REDRAFT_KERNELS(KERNEL)
#undef KERNEL

REDRAFT_EXPORT void redraft_project(const Layer* layer, const float* x, int64_t count, const float* cosines,
                                    const float* sines, const int64_t* positions, void* queries, void* keys,
                                    void* values) {
    project(*layer, x, count, cosines, sines, positions, queries, keys, values);
}

REDRAFT_EXPORT void redraft_finish(const Layer* layer, float* x, int64_t count, const float* context,
                                   const ScaledRows* rows, int64_t stretches) {
    finish(*layer, x, count, context, rows, stretches);
}

REDRAFT_EXPORT void redraft_forward(const Stack* stack, const Span* spans, int64_t count, int64_t encoded,
                                    int64_t dropped, float* x) {
    forward(*stack, spans, count, encoded, dropped, x);
}

REDRAFT_EXPORT void redraft_infer(const Chain* c) { infer(*c); }
REDRAFT_EXPORT void redraft_infer_in_order(const Chain* c) { infer_in_order(*c); }

REDRAFT_EXPORT void redraft_automaton(Expression* expression) { build(*expression); }

REDRAFT_EXPORT void redraft_take_automaton(void* automaton, int32_t* transitions, uint8_t* accepting) {
    take(automaton, transitions, accepting);
}

REDRAFT_EXPORT void redraft_walk(Walk* one) { walk(*one); }

REDRAFT_EXPORT void redraft_take_moves(void* walked, int32_t* number, int32_t* source, int32_t* target) {
    take_moves(walked, number, source, target);
}
