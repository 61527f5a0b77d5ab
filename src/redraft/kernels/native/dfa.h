// Deterministic automata over classes of bytes; constrain/automaton/dfa.py is the specification.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "automaton.h"

namespace redraft {

// A set of bytes.
struct ByteSet {
    std::array<uint64_t, 4> words{};

    static ByteSet of(int byte) {
        ByteSet set;
        set.words[byte >> 6] = uint64_t{1} << (byte & 63);
        return set;
    }
    bool has(int byte) const { return words[byte >> 6] >> (byte & 63) & 1; }
    bool empty() const { return !(words[0] | words[1] | words[2] | words[3]); }
    int lowest() const {
        int byte = 0;
        while (byte < 256 && !has(byte)) ++byte;
        return byte;
    }
    bool operator==(const ByteSet& other) const { return words == other.words; }
    ByteSet operator&(const ByteSet& other) const {
        ByteSet out;
        for (int i = 0; i < 4; ++i) out.words[i] = words[i] & other.words[i];
        return out;
    }
    ByteSet operator|(const ByteSet& other) const {
        ByteSet out;
        for (int i = 0; i < 4; ++i) out.words[i] = words[i] | other.words[i];
        return out;
    }
    ByteSet operator~() const {
        ByteSet out;
        for (int i = 0; i < 4; ++i) out.words[i] = ~words[i];
        return out;
    }
};

// Numbers different rows of whole numbers in the order in which they come.
class Numbers {
public:
    // The number of a row, and whether it is new.
    std::pair<int32_t, bool> of(const int32_t* row, std::size_t length) {
        if (2 * (size() + 1) > table_.size()) grow();
        std::size_t at = hash(row, length) & (table_.size() - 1);
        for (; table_[at] >= 0; at = (at + 1) & (table_.size() - 1)) {
            const int32_t known = table_[at];
            const std::size_t first = start_[known];
            if (start_[known + 1] - first == length &&
                (length == 0 || std::memcmp(&data_[first], row, length * sizeof(int32_t)) == 0))
                return {known, false};
        }
        const auto number = static_cast<int32_t>(size());
        table_[at] = number;
        slots_.push_back(at);
        data_.insert(data_.end(), row, row + length);
        start_.push_back(data_.size());
        return {number, true};
    }
    std::pair<int32_t, bool> of(const std::vector<int32_t>& row) { return of(row.data(), row.size()); }

    // Forgets all rows; the room stays.
    void clear() {
        if (table_.size() > 16 * size() + 64) {
            for (std::size_t number = 0; number < size(); ++number) table_[slots_[number]] = -1;
        } else {
            std::fill(table_.begin(), table_.end(), -1);
        }
        data_.clear();
        start_.resize(1);
        slots_.clear();
    }

    std::size_t size() const { return start_.size() - 1; }
    const int32_t* begin(std::size_t number) const { return data_.data() + start_[number]; }
    const int32_t* end(std::size_t number) const { return data_.data() + start_[number + 1]; }

private:
    static std::size_t hash(const int32_t* row, std::size_t length) {
        uint64_t mixed = 0x9e3779b97f4a7c15u ^ length;
        for (std::size_t i = 0; i < length; ++i) {
            mixed = (mixed ^ static_cast<uint32_t>(row[i])) * 0xff51afd7ed558ccdu;
            mixed ^= mixed >> 32;
        }
        return static_cast<std::size_t>(mixed);
    }

    void grow() {
        table_.assign(std::max<std::size_t>(64, 2 * table_.size()), -1);
        for (std::size_t number = 0; number < size(); ++number) {
            const std::size_t first = start_[number], length = start_[number + 1] - first;
            std::size_t at = hash(data_.data() + first, length) & (table_.size() - 1);
            while (table_[at] >= 0) at = (at + 1) & (table_.size() - 1);
            table_[at] = static_cast<int32_t>(number);
            slots_[number] = at;
        }
    }

    std::vector<int32_t> table_, data_;
    std::vector<std::size_t> start_{0}, slots_;  // of each row: where it begins, and its place in the table
};

// What a build may take, and has taken; constrain/automaton/limits.py.
class Budget {
public:
    struct Passed {
        Outcome outcome;
    };

    explicit Budget(Expression& limits) : limits_(limits) {}

    void spend(int64_t steps) {
        limits_.steps += steps;
        if (limits_.steps > limits_.max_steps) throw Passed{Outcome::steps};
    }
    void check_nfa(int64_t states, int64_t transitions) {
        if (states > limits_.max_nfa_states || transitions > limits_.max_nfa_transitions) {
            limits_.reached_transitions = transitions;
            refuse(Outcome::nfa, states);
        }
    }
    void check_states(int64_t states) {
        if (states > limits_.max_states) refuse(Outcome::states, states);
    }
    void check_minimal_states(int64_t states) {
        if (states > limits_.max_minimal_states) refuse(Outcome::minimal_states, states);
    }
    void add_members(int64_t count) {
        limits_.members += count;
        if (limits_.members > limits_.max_members) throw Passed{Outcome::members};
    }
    int64_t max_depth() const { return limits_.max_depth; }

private:
    [[noreturn]] void refuse(Outcome outcome, int64_t reached) {
        limits_.reached = reached;
        throw Passed{outcome};
    }

    Expression& limits_;
};

// Without a dead state; state 0 is the start.
struct Dfa {
    struct Move {
        int32_t read, target;  // the class of a byte, and the state after it
    };

    std::vector<ByteSet> classes;
    std::vector<std::size_t> start{0};  // [states + 1]: where each state's moves begin
    std::vector<Move> moves;
    std::vector<uint8_t> accepting;

    std::size_t states() const { return start.size() - 1; }
    const Move* begin(std::size_t state) const { return moves.data() + start[state]; }
    const Move* end(std::size_t state) const { return moves.data() + start[state + 1]; }
    void close_row() { start.push_back(moves.size()); }
};

// Each returns an automaton that may have dead ends, and may be larger than it need be.
Dfa product(const Dfa& left, const Dfa& right, Budget& budget);
Dfa difference(const Dfa& left, const Dfa& right, Budget& budget);

// Makes an automaton the smallest one; false, and nothing done, if it accepts nothing.
bool minimise(Dfa& automaton, Budget& budget);

}  // namespace redraft
