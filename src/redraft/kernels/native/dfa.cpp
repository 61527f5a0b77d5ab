#include "dfa.h"

namespace redraft {
namespace {

// For each state, the states that lead to it, ascending.
class Predecessors {
public:
    explicit Predecessors(const Dfa& automaton) : start_(automaton.states() + 1) {
        std::vector<std::pair<int32_t, int32_t>> pairs;
        std::vector<int32_t> targets;
        for (std::size_t state = 0; state < automaton.states(); ++state) {
            targets.clear();
            for (const Dfa::Move* move = automaton.begin(state); move != automaton.end(state); ++move)
                targets.push_back(move->target);
            std::sort(targets.begin(), targets.end());
            targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
            for (const int32_t target : targets) {
                pairs.emplace_back(target, static_cast<int32_t>(state));
                ++start_[target + 1];
            }
        }
        for (std::size_t state = 1; state < start_.size(); ++state) start_[state] += start_[state - 1];
        sources_.resize(pairs.size());
        std::vector<std::size_t> at(start_.begin(), start_.end() - 1);
        for (const auto& [target, source] : pairs) sources_[at[target]++] = source;
    }

    // How many different live states each state leads to; it alone is to be waited for.
    std::vector<int32_t> counts(const std::vector<uint8_t>& live) const {
        std::vector<int32_t> found(live.size());
        for (std::size_t state = 0; state < live.size(); ++state) {
            for (const int32_t* before = begin(state); live[state] && before != end(state); ++before) ++found[*before];
        }
        return found;
    }

    const int32_t* begin(std::size_t state) const { return sources_.data() + start_[state]; }
    const int32_t* end(std::size_t state) const { return sources_.data() + start_[state + 1]; }

private:
    std::vector<std::size_t> start_;
    std::vector<int32_t> sources_;
};

std::vector<uint8_t> leading_to_ends(const Dfa& automaton, const Predecessors& predecessors) {
    std::vector<uint8_t> live = automaton.accepting;
    std::vector<int32_t> waiting;
    for (std::size_t state = 0; state < live.size(); ++state)
        if (live[state]) waiting.push_back(static_cast<int32_t>(state));
    while (!waiting.empty()) {
        const int32_t state = waiting.back();
        waiting.pop_back();
        for (const int32_t* before = predecessors.begin(state); before != predecessors.end(state); ++before) {
            if (live[*before]) continue;
            live[*before] = 1;
            waiting.push_back(*before);
        }
    }
    return live;
}

// The automaton without moves into dead ends, each state's moves by class.
Dfa pruned(const Dfa& automaton, const std::vector<uint8_t>& live) {
    Dfa out;
    out.classes = automaton.classes;
    out.accepting = automaton.accepting;
    out.moves.reserve(automaton.moves.size());
    for (std::size_t state = 0; state < automaton.states(); ++state) {
        for (const Dfa::Move* move = automaton.begin(state); live[state] && move != automaton.end(state); ++move)
            if (live[move->target]) out.moves.push_back(*move);
        std::sort(out.moves.begin() + static_cast<std::ptrdiff_t>(out.start.back()), out.moves.end(),
                  [](const Dfa::Move& a, const Dfa::Move& b) { return a.read < b.read; });
        out.close_row();
    }
    return out;
}

// Numbers states, the same for two that accept the same texts. dfa.py says how.
class Equivalence {
public:
    Equivalence(const Dfa& automaton, const std::vector<uint8_t>& live, const Predecessors& predecessors,
                Budget& budget)
        : dfa_(automaton),
          live_(live),
          predecessors_(predecessors),
          budget_(budget),
          block_(automaton.states(), -1),
          suspected_(automaton.states()) {}

    std::vector<int32_t> find() {
        number_uncircular();
        begin_blocks();
        while (!suspects_.empty()) refine();
        return std::move(block_);
    }

private:
    // What a state accepts and reads, and the blocks that it leads to.
    const std::vector<int32_t>& known(std::size_t state) {
        row_.assign(1, dfa_.accepting[state]);
        for (const Dfa::Move* move = dfa_.begin(state); move != dfa_.end(state); ++move) {
            row_.push_back(move->read);
            row_.push_back(block_[move->target]);
        }
        return row_;
    }

    // States from which no way leads into a circle are told apart from the ends of texts on.
    void number_uncircular() {
        Numbers found;
        std::vector<int32_t> left = predecessors_.counts(live_), waiting;
        for (std::size_t state = 0; state < dfa_.states(); ++state)
            if (!left[state]) waiting.push_back(static_cast<int32_t>(state));
        while (!waiting.empty()) {
            const int32_t state = waiting.back();
            waiting.pop_back();
            block_[state] = found.of(known(state)).first;
            // No way leads into a dead end any longer, so that nothing waits for one.
            if (!live_[state]) continue;
            for (const int32_t* before = predecessors_.begin(state); before != predecessors_.end(state); ++before)
                if (!--left[*before]) waiting.push_back(*before);
        }
        blocks_ = static_cast<int32_t>(found.size());
    }

    void begin_blocks() {
        Numbers first;
        for (std::size_t state = 0; state < dfa_.states(); ++state)
            if (block_[state] < 0) suspects_.push_back(static_cast<int32_t>(state));
        std::vector<int32_t> begun(suspects_.size());
        for (std::size_t i = 0; i < suspects_.size(); ++i) begun[i] = first.of(known(suspects_[i])).first;
        // The members of a block lie together.
        begin_.assign(first.size() + 1, 0);
        for (const int32_t number : begun) ++begin_[number + 1];
        for (std::size_t number = 1; number < begin_.size(); ++number) begin_[number] += begin_[number - 1];
        end_.assign(begin_.begin() + 1, begin_.end());
        begin_.pop_back();
        members_.resize(suspects_.size());
        place_.resize(dfa_.states());
        std::vector<std::size_t> at = begin_;
        for (std::size_t i = 0; i < suspects_.size(); ++i) {
            block_[suspects_[i]] = blocks_ + begun[i];
            put(suspects_[i], at[begun[i]]++);
        }
    }

    void put(int32_t state, std::size_t place) {
        members_[place] = state;
        place_[state] = place;
    }

    // Looks at the suspects: those of one block that lead to the same blocks are a part of it.
    void refine() {
        keys_.clear();
        parts_.clear();
        looked_at_.clear();
        group_of_.resize(end_.size(), -1);
        int64_t compared = 0;
        for (const int32_t state : suspects_) {
            row_.assign(1, block_[state]);
            for (const Dfa::Move* move = dfa_.begin(state); move != dfa_.end(state); ++move)
                row_.push_back(block_[move->target]);
            compared += static_cast<int64_t>(row_.size());
            const auto [number, fresh] = keys_.of(row_);
            if (fresh) {
                const int32_t block = block_[state];
                if (group_of_[block - blocks_] < 0) looked_at_.push_back(block);
                // The parts of a block are a list, the latest first.
                parts_.push_back({block, group_of_[block - blocks_], 0, 0});
                group_of_[block - blocks_] = number;
            }
            part_of_.push_back(number);
            ++parts_[number].count;
        }
        budget_.spend(compared);
        // The states of all parts, one part after the other.
        std::size_t at = 0;
        for (Part& part : parts_) {
            part.first = at;
            at += part.count;
        }
        sorted_.resize(suspects_.size());
        for (std::size_t i = 0; i < suspects_.size(); ++i) sorted_[parts_[part_of_[i]].first++] = suspects_[i];
        for (const int32_t state : suspects_) suspected_[state] = 0;
        part_of_.clear();
        suspects_.clear();
        for (const int32_t block : looked_at_) {
            own_.clear();
            for (int32_t part = group_of_[block - blocks_]; part >= 0; part = parts_[part].before) own_.push_back(part);
            std::reverse(own_.begin(), own_.end());
            group_of_[block - blocks_] = -1;
            split(block);
        }
        std::sort(suspects_.begin(), suspects_.end());
    }

    // All of a block's own parts but the largest leave it; what is in none of them is a part as well.
    void split(int32_t block) {
        const std::size_t first = begin_[block - blocks_];
        std::size_t last = end_[block - blocks_], largest = 0;
        stretches_.clear();
        for (std::size_t i = 0; i < own_.size(); ++i) {
            const Part& part = parts_[own_[i]];
            const std::size_t end = last;
            for (std::size_t at = part.first - part.count; at < part.first; ++at) {
                const int32_t state = sorted_[at], other = members_[--last];
                const std::size_t place = place_[state];
                put(state, last);
                put(other, place);
            }
            stretches_.emplace_back(last, end);
            if (part.count > parts_[own_[largest]].count) largest = i;
        }
        const std::size_t rest = last - first;
        if (rest >= parts_[own_[largest]].count) {
            end_[block - blocks_] = last;
        } else {
            begin_[block - blocks_] = stretches_[largest].first;
            end_[block - blocks_] = stretches_[largest].second;
            stretches_.erase(stretches_.begin() + static_cast<std::ptrdiff_t>(largest));
            if (rest) stretches_.emplace_back(first, last);
        }
        for (const auto& [from, to] : stretches_) leave(from, to);
    }

    void leave(std::size_t from, std::size_t to) {
        const auto number = static_cast<int32_t>(blocks_ + static_cast<int64_t>(end_.size()));
        begin_.push_back(from);
        end_.push_back(to);
        for (std::size_t place = from; place < to; ++place) {
            const int32_t state = members_[place];
            block_[state] = number;
            for (const int32_t* before = predecessors_.begin(state); before != predecessors_.end(state); ++before) {
                if (suspected_[*before]) continue;
                suspected_[*before] = 1;
                suspects_.push_back(*before);
            }
        }
    }

    const Dfa& dfa_;
    const std::vector<uint8_t>& live_;
    const Predecessors& predecessors_;
    Budget& budget_;
    std::vector<int32_t> block_;   // [states]
    int32_t blocks_ = 0;           // those of states from which no way leads into a circle; others are counted from it on
    std::vector<uint8_t> suspected_;
    std::vector<int32_t> suspects_, members_, row_;
    std::vector<std::size_t> begin_, end_, place_;  // the stretch of each block in members_, and each state's place there

    // Of one round.
    struct Part {
        int32_t block, before;  // the block's part that was met before this one; -1 for none
        std::size_t count, first;  // of its states in sorted_; once they are there, first is where they end
    };
    Numbers keys_;
    std::vector<Part> parts_;
    std::vector<int32_t> looked_at_, group_of_, part_of_, sorted_, own_;
    std::vector<std::pair<std::size_t, std::size_t>> stretches_;
};

// Both products go through the pairs of states that a text can lead to. Pairs of classes come in `read`; where the
// second class is -1, or the second state, the right automaton is dead.
struct Pairs {
    std::vector<std::pair<int32_t, int32_t>> read;
    bool right_may_die;

    Dfa automaton(const Dfa& left, const Dfa& right, std::vector<ByteSet> classes, Budget& budget) const {
        Dfa out;
        out.classes = std::move(classes);
        Numbers numbers;
        std::vector<int32_t> pair{0, 0}, from_left(left.classes.size()), from_right(right.classes.size());
        numbers.of(pair);
        for (std::size_t at = 0; at < numbers.size(); ++at) {
            budget.spend(static_cast<int64_t>(read.size()));
            const int32_t a = numbers.begin(at)[0], b = numbers.begin(at)[1];
            spread(left, a, from_left);
            spread(right, b, from_right);
            for (std::size_t number = 0; number < read.size(); ++number) {
                const auto [i, j] = read[number];
                const int32_t after = from_left[i], right_after = j < 0 ? -1 : from_right[j];
                if (after < 0 || (right_after < 0 && !right_may_die)) continue;
                pair.assign({after, right_after});
                out.moves.push_back({static_cast<int32_t>(number), numbers.of(pair).first});
            }
            budget.check_states(static_cast<int64_t>(numbers.size()));
            out.close_row();
            const bool right_accepts = b >= 0 && right.accepting[b];
            out.accepting.push_back(left.accepting[a] && right_accepts != right_may_die);
        }
        return out;
    }

private:
    static void spread(const Dfa& automaton, int32_t state, std::vector<int32_t>& after) {
        std::fill(after.begin(), after.end(), -1);
        if (state < 0) return;
        for (const Dfa::Move* move = automaton.begin(state); move != automaton.end(state); ++move)
            after[move->read] = move->target;
    }
};

}  // namespace

Dfa product(const Dfa& left, const Dfa& right, Budget& budget) {
    Pairs pairs{{}, false};
    std::vector<ByteSet> classes;
    for (std::size_t i = 0; i < left.classes.size(); ++i) {
        for (std::size_t j = 0; j < right.classes.size(); ++j) {
            const ByteSet both = left.classes[i] & right.classes[j];
            if (both.empty()) continue;
            classes.push_back(both);
            pairs.read.emplace_back(i, j);
        }
    }
    return pairs.automaton(left, right, std::move(classes), budget);
}

Dfa difference(const Dfa& left, const Dfa& right, Budget& budget) {
    Pairs pairs{{}, true};
    std::vector<ByteSet> classes;
    for (std::size_t i = 0; i < left.classes.size(); ++i) {
        ByteSet rest = left.classes[i];
        for (std::size_t j = 0; j < right.classes.size(); ++j) {
            const ByteSet both = left.classes[i] & right.classes[j];
            if (both.empty()) continue;
            classes.push_back(both);
            pairs.read.emplace_back(i, j);
            rest = rest & ~right.classes[j];
        }
        if (rest.empty()) continue;
        classes.push_back(rest);
        pairs.read.emplace_back(i, -1);
    }
    return pairs.automaton(left, right, std::move(classes), budget);
}

bool minimise(Dfa& automaton, Budget& budget) {
    budget.spend(static_cast<int64_t>(automaton.states() + automaton.moves.size()));
    const Predecessors predecessors(automaton);
    const std::vector<uint8_t> live = leading_to_ends(automaton, predecessors);
    if (!live[0]) return false;
    const Dfa rows = pruned(automaton, live);
    const std::vector<int32_t> block = Equivalence(rows, live, predecessors, budget).find();
    std::vector<int32_t> number(automaton.states() + 1, -1), representatives{0};
    number[block[0]] = 0;
    for (std::size_t at = 0; at < representatives.size(); ++at) {
        const int32_t state = representatives[at];
        for (const Dfa::Move* move = rows.begin(state); move != rows.end(state); ++move) {
            if (number[block[move->target]] >= 0) continue;
            number[block[move->target]] = static_cast<int32_t>(representatives.size());
            representatives.push_back(move->target);
        }
    }
    budget.check_minimal_states(static_cast<int64_t>(representatives.size()));
    Dfa smallest;
    smallest.classes = std::move(automaton.classes);
    for (const int32_t state : representatives) {
        for (const Dfa::Move* move = rows.begin(state); move != rows.end(state); ++move)
            smallest.moves.push_back({move->read, number[block[move->target]]});
        smallest.close_row();
        smallest.accepting.push_back(rows.accepting[state]);
    }
    automaton = std::move(smallest);
    return true;
}

}  // namespace redraft
