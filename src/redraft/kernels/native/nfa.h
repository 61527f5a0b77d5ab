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

    // A list for each state, all in one row.
    template <class T>
    class Lists {
    public:
        struct List {
            const T *first, *last;
            const T* begin() const { return first; }
            const T* end() const { return last; }
            bool empty() const { return first == last; }
            int64_t size() const { return last - first; }
        };
        void add(int32_t state, const T& one) { pending_.emplace_back(state, one); }
        // Lays the lists out once all is added.
        void lay(std::size_t states) {
            start_.assign(states + 1, 0);
            for (const auto& one : pending_) ++start_[one.first + 1];
            for (std::size_t state = 0; state < states; ++state) start_[state + 1] += start_[state];
            all_.resize(pending_.size());
            std::vector<std::size_t> at(start_.begin(), start_.end() - 1);
            for (const auto& one : pending_) all_[at[one.first]++] = one.second;
            pending_ = {};
        }
        List operator[](std::size_t state) const { return {all_.data() + start_[state], all_.data() + start_[state + 1]}; }

    private:
        std::vector<std::pair<int32_t, T>> pending_;
        std::vector<std::size_t> start_;
        std::vector<T> all_;
    };

    std::size_t states() const { return static_cast<std::size_t>(states_); }

    Lists<Edge> edges;
    Lists<int32_t> skips;  // empty transitions
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
        int32_t label;  // -1 until it has one
    };
    struct Characters {
        std::vector<Step> steps;
        int32_t inner = 0;  // states besides the two that it leads between
    };

    const int64_t* code(int64_t part) const { return expression_.code + expression_.start[part]; }
    bool is(int64_t part, Kind kind) const {
        return part != kEmpty && code(part)[0] == static_cast<int64_t>(kind);
    }
    int32_t add_states(int64_t count);
    int32_t label_of(const ByteSet& bytes);
    void add_labelled(int32_t source, int32_t label, int32_t target);
    void add_edge(int32_t source, const ByteSet& bytes, int32_t target);
    Characters* characters_of(const int64_t* code);
    void skip(int32_t source, int32_t target);
    void count_transition();
    void wire(const Waiting& one);
    void wire_bytes(const int64_t* text, int64_t length, int32_t entry, int32_t leave);
    void wire_options(const int64_t* code, int32_t entry, int32_t leave);
    void wire_texts(const int64_t* parts, int64_t count, int32_t entry, int32_t leave);
    void wire_characters(int64_t part, int32_t entry, int32_t leave);
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
    int64_t states_ = 0, transitions_ = 0;
    std::vector<Waiting> waiting_;
    std::map<std::array<uint64_t, 4>, int32_t> label_numbers_;
    std::map<Ranges, Characters> characters_;
    std::vector<Characters*> characters_of_part_;  // [parts]; null for one that was not met yet
    friend class Utf8;
};

}  // namespace redraft
