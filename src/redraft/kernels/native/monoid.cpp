#include "monoid.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace redraft {
namespace {

constexpr int32_t kNowhere = 0, kIdentity = 1;  // the functions that are there from the beginning
constexpr int32_t kUnknown = -1, kAskedFor = -2;

struct Passed {
    WalkOutcome outcome;
};

struct Moves {
    std::vector<int32_t> number, source, target;
};

int64_t bits(uint64_t value) {
    int64_t count = 0;
    for (; value; value >>= 1) ++count;
    return count;
}

// Bytes of the smallest number of whole bytes that has so many bits, as numpy chooses it.
int64_t bytes_for(int64_t count) { return count <= 8 ? 1 : count <= 16 ? 2 : count <= 32 ? 4 : 8; }

// Rows of numbers that stay where they are.
template <class Unit>
class Arena {
public:
    const Unit* add(const Unit* row, std::size_t length) {
        if (left_ < length) {
            left_ = std::max<std::size_t>(length, kChunk);
            chunks_.push_back(std::make_unique<Unit[]>(left_));
            next_ = chunks_.back().get();
        }
        std::copy(row, row + length, next_);
        next_ += length;
        left_ -= length;
        return next_ - length;
    }

private:
    static constexpr std::size_t kChunk = 1 << 16;
    std::vector<std::unique_ptr<Unit[]>> chunks_;
    Unit* next_ = nullptr;
    std::size_t left_ = 0;
};

// The functions on the states that strings of bytes are. One that says of many states what follows is a row
// [states + 1], the state after the string from each; any other is pairs of a live state and the state after it.
template <class Unit>
class Monoid {
public:
    explicit Monoid(Walk& walk)
        : walk_(walk), states_(walk.states), dense_from_((states_ + 1) / 2), row_(2 * (states_ + 1)) {
        unit_bytes_ = bytes_for(bits(static_cast<uint64_t>(states_)));
        pair_bytes_ = bytes_for(2 * bits(static_cast<uint64_t>(states_)));
        read_columns();
        rows_.push_back(nullptr);
        live_.push_back(0);
        hashes_.push_back(0);
        after_.assign(classes_, kNowhere);
        for (int64_t state = 0; state <= states_; ++state) row_[state] = static_cast<Unit>(state);
        table_.assign(256, -1);
        add(states_, states_ + 1, hash(states_ + 1));
    }

    // Fills in the class of every token, and returns where each class leads.
    std::unique_ptr<Moves> classes() {
        const std::vector<int32_t> functions = of_prefixes();
        std::vector<int32_t> number(rows_.size(), 0), used;
        for (int64_t token = 0; token < walk_.tokens; ++token) {
            const int32_t function = walk_.silent[token] ? kNowhere : functions[walk_.token_node[token]];
            if (function != kNowhere && number[function] == 0) {
                used.push_back(function);
                number[function] = static_cast<int32_t>(used.size());
            }
            walk_.token_class[token] = number[function];
        }
        walk_.classes = static_cast<int64_t>(used.size());
        return moves(used);
    }

private:
    // The columns of the transitions that differ: bytes with the same one are a class.
    void read_columns() {
        const std::size_t height = static_cast<std::size_t>(states_) + 1;
        std::vector<Unit> all(256 * height);
        for (std::size_t state = 0; state < height; ++state)
            for (std::size_t byte = 0; byte < 256; ++byte)
                all[byte * height + state] = static_cast<Unit>(walk_.transitions[256 * state + byte]);
        std::unordered_map<std::string_view, int32_t> numbers;
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const Unit* column = all.data() + byte * height;
            const std::string_view spelled(reinterpret_cast<const char*>(column), height * sizeof(Unit));
            const auto found = numbers.emplace(spelled, static_cast<int32_t>(numbers.size()));
            class_of_byte_[byte] = found.first->second;
            if (found.second) columns_.insert(columns_.end(), column, column + height);
        }
        classes_ = numbers.size();
    }

    // The function of every prefix.
    std::vector<int32_t> of_prefixes() {
        const int64_t prefixes = walk_.level_start[walk_.levels];
        std::vector<int32_t> functions(static_cast<std::size_t>(prefixes), kIdentity);
        std::vector<int64_t> unknown;
        std::vector<std::size_t> asked;
        for (int64_t level = 1; level < walk_.levels; ++level) {
            unknown.clear();
            asked.clear();
            for (int64_t node = walk_.level_start[level]; node < walk_.level_start[level + 1]; ++node) {
                const std::size_t at = place(functions[walk_.parent[node]], node);
                functions[node] = after_[at];
                if (after_[at] >= 0) continue;
                unknown.push_back(node);
                if (after_[at] == kUnknown) asked.push_back(at);
                after_[at] = kAskedFor;
            }
            if (asked.empty()) continue;
            std::sort(asked.begin(), asked.end());
            compose(asked);
            for (const int64_t node : unknown) functions[node] = after_[place(functions[walk_.parent[node]], node)];
        }
        return functions;
    }

    std::size_t place(int32_t function, int64_t node) const {
        return static_cast<std::size_t>(function) * classes_ + class_of_byte_[walk_.byte[node]];
    }

    // Finds what one more byte makes of functions, those first that are rows.
    void compose(const std::vector<std::size_t>& asked) {
        int64_t steps = 0;
        for (const std::size_t at : asked) {
            const int64_t live = live_[at / classes_];
            steps += live >= dense_from_ ? states_ + 1 : live;
        }
        steps_ += steps;
        if (steps_ > walk_.max_steps) throw Passed{WalkOutcome::steps};
        for (const bool dense : {true, false}) {
            for (const std::size_t at : asked) {
                const std::size_t function = at / classes_;
                if ((live_[function] >= dense_from_) != dense) continue;
                const Unit* column = columns_.data() + (at % classes_) * (states_ + 1);
                const int32_t found = dense ? of_row(rows_[function], column) : of_pairs(function, column);
                after_[at] = found;
            }
        }
    }

    int32_t of_row(const Unit* before, const Unit* column) {
        int64_t live = 0;
        for (int64_t state = 0; state <= states_; ++state) {
            row_[state] = column[before[state]];
            live += row_[state] != states_;
        }
        if (live >= dense_from_) return number(live, states_ + 1);
        pairs_.clear();
        for (int64_t state = 0; state < states_; ++state) {
            if (row_[state] == states_) continue;
            pairs_.push_back(static_cast<Unit>(state));
            pairs_.push_back(row_[state]);
        }
        std::copy(pairs_.begin(), pairs_.end(), row_.begin());
        return number(live, 2 * live);
    }

    int32_t of_pairs(std::size_t function, const Unit* column) {
        const Unit* pair = rows_[function];
        int64_t length = 0;
        for (int64_t left = live_[function]; left > 0; --left, pair += 2) {
            const Unit target = column[pair[1]];
            if (target == states_) continue;
            row_[length++] = pair[0];
            row_[length++] = target;
        }
        return number(length / 2, length);
    }

    // The number of the function in row_, which is so long.
    int32_t number(int64_t live, int64_t length) {
        if (live == 0) return kNowhere;
        const uint64_t hashed = hash(length);
        std::size_t at = hashed & (table_.size() - 1);
        for (; table_[at] >= 0; at = (at + 1) & (table_.size() - 1)) {
            const int32_t known = table_[at];
            if (hashes_[known] == hashed && live_[known] == live &&
                std::memcmp(rows_[known], row_.data(), static_cast<std::size_t>(length) * sizeof(Unit)) == 0)
                return known;
        }
        add(live, length, hashed);
        const auto found = static_cast<int32_t>(rows_.size() - 1);
        if (static_cast<int64_t>(rows_.size()) > walk_.max_functions) throw Passed{WalkOutcome::functions};
        if (bytes_ > walk_.max_bytes) throw Passed{WalkOutcome::bytes};
        return found;
    }

    void add(int64_t live, int64_t length, uint64_t hashed) {
        rows_.push_back(arena_.add(row_.data(), static_cast<std::size_t>(length)));
        live_.push_back(live);
        hashes_.push_back(hashed);
        bytes_ += live >= dense_from_ ? unit_bytes_ * (states_ + 1) : pair_bytes_ * live;
        after_.resize(after_.size() + classes_, kUnknown);
        std::size_t first = rows_.size() - 1;
        if (2 * rows_.size() > table_.size()) {
            table_.assign(2 * table_.size(), -1);
            first = kIdentity;
        }
        for (std::size_t function = first; function < rows_.size(); ++function) put(function);
    }

    void put(std::size_t function) {
        std::size_t at = hashes_[function] & (table_.size() - 1);
        while (table_[at] >= 0) at = (at + 1) & (table_.size() - 1);
        table_[at] = static_cast<int32_t>(function);
    }

    uint64_t hash(int64_t length) const {
        uint64_t mixed = 0x9e3779b97f4a7c15u ^ static_cast<uint64_t>(length);
        for (int64_t i = 0; i < length; ++i) {
            mixed = (mixed ^ row_[i]) * 0xff51afd7ed558ccdu;
            mixed ^= mixed >> 32;
        }
        return mixed;
    }

    std::unique_ptr<Moves> moves(const std::vector<int32_t>& used) {
        int64_t count = 0;
        for (const int32_t function : used) count += live_[function];
        walk_.moves = count;
        if (count > walk_.max_bytes / walk_.bytes_a_move) throw Passed{WalkOutcome::moves};
        auto out = std::make_unique<Moves>();
        for (auto* part : {&out->number, &out->source, &out->target}) part->reserve(static_cast<std::size_t>(count));
        for (std::size_t number = 0; number < used.size(); ++number) {
            const Unit* row = rows_[used[number]];
            const int64_t live = live_[used[number]];
            const bool dense = live >= dense_from_;
            for (int64_t i = 0; i < (dense ? states_ : live); ++i) {
                const Unit source = dense ? static_cast<Unit>(i) : row[2 * i], target = dense ? row[i] : row[2 * i + 1];
                if (target == states_) continue;
                out->number.push_back(static_cast<int32_t>(number));
                out->source.push_back(static_cast<int32_t>(source));
                out->target.push_back(static_cast<int32_t>(target));
            }
        }
        return out;
    }

    Walk& walk_;
    const int64_t states_, dense_from_;
    int64_t unit_bytes_, pair_bytes_, bytes_ = 0, steps_ = 0;
    int32_t class_of_byte_[256];
    std::size_t classes_ = 0;
    std::vector<Unit> columns_, row_, pairs_;  // [classes, states + 1]; the function that is being made
    Arena<Unit> arena_;
    std::vector<const Unit*> rows_;
    std::vector<int64_t> live_;     // [functions]: how many states each leaves alive
    std::vector<uint64_t> hashes_;  // [functions]
    std::vector<int32_t> table_, after_;  // functions by hash; [functions, classes]: what one more byte makes of each
};

// Fills in the fewest moves from states with none, along all moves from `from` to `to`.
void count_steps(const std::vector<int32_t>& from, const std::vector<int32_t>& to, std::vector<int32_t> reached,
                 int64_t states, int32_t* steps) {
    std::vector<std::size_t> start(static_cast<std::size_t>(states) + 1, 0);
    for (const int32_t state : from) ++start[state + 1];
    for (std::size_t state = 1; state < start.size(); ++state) start[state] += start[state - 1];
    std::vector<std::size_t> next(start.begin(), start.end() - 1);
    std::vector<int32_t> following(to.size());
    for (std::size_t move = 0; move < to.size(); ++move) following[next[from[move]]++] = to[move];
    std::fill(steps, steps + states, -1);
    for (const int32_t state : reached) steps[state] = 0;
    for (std::size_t at = 0; at < reached.size(); ++at) {
        const int32_t state = reached[at];
        for (std::size_t move = start[state]; move < start[state + 1]; ++move) {
            if (steps[following[move]] >= 0) continue;
            steps[following[move]] = steps[state] + 1;
            reached.push_back(following[move]);
        }
    }
}

}  // namespace

void walk(Walk& walk) {
    walk.walked = nullptr;
    try {
        std::unique_ptr<Moves> moves = walk.states <= std::numeric_limits<uint16_t>::max()
                                           ? Monoid<uint16_t>(walk).classes()
                                           : Monoid<uint32_t>(walk).classes();
        std::vector<int32_t> ends;
        for (int64_t state = 0; state < walk.states; ++state)
            if (walk.accepting[state]) ends.push_back(static_cast<int32_t>(state));
        count_steps(moves->target, moves->source, std::move(ends), walk.states, walk.distance);
        count_steps(moves->source, moves->target, {static_cast<int32_t>(walk.start)}, walk.states, walk.reached);
        walk.outcome = static_cast<int64_t>(WalkOutcome::walked);
        walk.walked = moves.release();
    } catch (const Passed& passed) {
        walk.outcome = static_cast<int64_t>(passed.outcome);
    } catch (const std::bad_alloc&) {
        walk.outcome = static_cast<int64_t>(WalkOutcome::memory);
    }
}

void take_moves(void* walked, int32_t* number, int32_t* source, int32_t* target) {
    const std::unique_ptr<Moves> moves(static_cast<Moves*>(walked));
    std::copy(moves->number.begin(), moves->number.end(), number);
    std::copy(moves->source.begin(), moves->source.end(), source);
    std::copy(moves->target.begin(), moves->target.end(), target);
}

}  // namespace redraft
