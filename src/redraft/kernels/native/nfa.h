// Expressions as nondeterministic automata over bytes; constrain/automaton/nfa.py is the specification.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "dfa.h"

namespace redraft {

// The kinds of an expression's parts, and what follows the kind in the code. kernels/automata.py has the same.
enum class Kind : int64_t {
    literal,     // its length, its bytes
    characters,  // the number of ranges, the first and the last code point of each
    marker,      // its byte
    sequence,    // the number of parts, the parts; as the next two
    any_of,
    all_of,
    without,  // the part, what is excluded
    network,  // places, the number of edges; source, part and target of each
    repeat,   // the part, the least and the largest count, kUnbounded for any
};
constexpr int64_t kUnbounded = -1;
constexpr int64_t kEmpty = -1;  // the part that is the empty text, which has no code

// The automata of parts that are intersections or differences, each made once; null where nothing matches.
class Combinations {
public:
    virtual ~Combinations() = default;
    virtual const Dfa* of(int64_t part) = 0;
};

class Nfa {
public:
    struct Edge {
        int32_t label, target;
    };
    static constexpr int32_t kStart = 0, kEnd = 1;

    Nfa(const Expression& expression, int64_t root, Budget& budget, Combinations& combinations);

    std::vector<std::vector<Edge>> edges;
    std::vector<std::vector<int32_t>> skips;  // empty transitions
    std::vector<ByteSet> labels;

private:
    struct Waiting {
        int64_t part;
        int32_t entry, leave;
        int64_t parts = -1;  // where it is not negative, only so many parts of a sequence are meant
    };
    using Ranges = std::vector<std::pair<int64_t, int64_t>>;
    struct Step {
        int32_t source;
        ByteSet bytes;
        int32_t target;
    };

    const int64_t* code(int64_t part) const { return expression_.code + expression_.start[part]; }
    bool is(int64_t part, Kind kind) const {
        return part != kEmpty && code(part)[0] == static_cast<int64_t>(kind);
    }
    int32_t add_states(int64_t count);
    void add_edge(int32_t source, const ByteSet& bytes, int32_t target);
    void skip(int32_t source, int32_t target);
    void count_transition();
    void wire(const Waiting& one);
    void wire_bytes(const int64_t* text, int64_t length, int32_t entry, int32_t leave);
    void wire_options(const int64_t* code, int32_t entry, int32_t leave);
    void wire_texts(const int64_t* parts, int64_t count, int32_t entry, int32_t leave);
    void wire_characters(const int64_t* code, int32_t entry, int32_t leave);
    void wire_sequence(const int64_t* parts, int64_t count, int32_t entry, int32_t leave);
    void wire_list(const Waiting& item, const Waiting& separator, int32_t entry, int32_t leave);
    void wire_repeat(int64_t part, int64_t low, int64_t high, int32_t entry, int32_t leave);
    void wire_network(const int64_t* code, int32_t entry, int32_t leave);
    void wire_combination(int64_t part, int32_t entry, int32_t leave);
    bool separates(int64_t item, int64_t following, Waiting& separator) const;
    std::vector<int32_t> path(int32_t entry, int64_t between, int32_t leave);

    const Expression& expression_;
    Budget& budget_;
    Combinations& combinations_;
    int64_t transitions_ = 0;
    std::vector<Waiting> waiting_;
    std::map<std::array<uint64_t, 4>, int32_t> label_numbers_;
    std::map<Ranges, std::vector<Step>> characters_;
    friend class Utf8;
};

}  // namespace redraft
