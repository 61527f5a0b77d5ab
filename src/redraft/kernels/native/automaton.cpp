#include "automaton.h"

#include <memory>
#include <new>
#include <unordered_map>

#include "dfa.h"
#include "nfa.h"

namespace redraft {
namespace {

constexpr int64_t kStepsAMove = 4;  // looking up where a class of bytes leads takes about as long as so many transitions

// The subset construction; a set holds only states that read a byte, and the end.
class Subsets {
public:
    Subsets(const Nfa& nfa, Budget& budget)
        : nfa_(nfa), budget_(budget), seen_(nfa.states()), single_(nfa.states(), -1) {
        split_bytes();
        spread_.resize(nfa.labels.size());
        for (std::size_t label = 0; label < nfa.labels.size(); ++label)
            for (std::size_t number = 0; number < out_.classes.size(); ++number)
                if (!(out_.classes[number] & nfa.labels[label]).empty())
                    spread_[label].push_back(static_cast<int32_t>(number));
        by_label_.resize(nfa.labels.size());
        moves_.resize(out_.classes.size());
    }

    Dfa automaton() {
        number({Nfa::kStart});
        for (std::size_t at = 0; at < subsets_.size(); ++at) {
            find_moves(at);
            for (const int32_t read : reads_) {
                out_.moves.push_back({read, number(moves_[read])});
                moves_[read].clear();
            }
            out_.close_row();
        }
        for (std::size_t at = 0; at < subsets_.size(); ++at)
            out_.accepting.push_back(std::binary_search(subsets_.begin(at), subsets_.end(at), Nfa::kEnd));
        return std::move(out_);
    }

private:
    // Splits the bytes until each label is a union of classes, sorted by lowest byte; bytes of no label are left out.
    void split_bytes() {
        std::vector<ByteSet> classes{~ByteSet()}, parts;
        ByteSet used;
        for (const ByteSet& label : nfa_.labels) {
            used = used | label;
            budget_.spend(static_cast<int64_t>(classes.size()));
            parts.clear();
            for (const ByteSet& whole : classes) {
                for (const ByteSet& part : {whole & label, whole & ~label})
                    if (!part.empty()) parts.push_back(part);
            }
            classes.swap(parts);
        }
        for (const ByteSet& one : classes)
            if (!(one & used).empty()) out_.classes.push_back(one);
        std::sort(out_.classes.begin(), out_.classes.end(),
                  [](const ByteSet& a, const ByteSet& b) { return a.lowest() < b.lowest(); });
    }

    // The number of the set that some states lead to by empty transitions.
    int32_t number(const std::vector<int32_t>& targets) {
        int32_t* known = nullptr;
        if (targets.size() == 1) {
            known = &single_[targets[0]];
        } else {
            const auto [key, fresh] = known_.of(targets);
            if (fresh) of_known_.push_back(-1);
            known = &of_known_[key];
        }
        if (*known >= 0) return *known;
        close(targets);
        const auto [found, fresh] = subsets_.of(members_);
        budget_.add_members(static_cast<int64_t>(targets.size() + members_.size()));
        if (fresh) budget_.check_states(static_cast<int64_t>(subsets_.size()));
        return *known = found;
    }

    // Fills members_: states that read a byte, and the end, reached from any of `states` by empty transitions.
    void close(const std::vector<int32_t>& states) {
        members_.clear();
        if (states.size() == 1 && nfa_.skips[states[0]].empty()) {
            budget_.spend(1);
            if (!nfa_.edges[states[0]].empty() || states[0] == Nfa::kEnd) members_ = states;
            return;
        }
        reached_.clear();
        const auto reach = [&](int32_t state) {
            if (seen_[state]) return;
            seen_[state] = 1;
            reached_.push_back(state);
        };
        for (const int32_t state : states) reach(state);
        int64_t followed = 0;
        for (std::size_t at = 0; at < reached_.size(); ++at) {
            const int32_t state = reached_[at];
            followed += 1 + nfa_.skips[state].size();
            for (const int32_t target : nfa_.skips[state]) reach(target);
        }
        for (const int32_t state : reached_) {
            seen_[state] = 0;
            if (!nfa_.edges[state].empty() || state == Nfa::kEnd) members_.push_back(state);
        }
        budget_.spend(followed);
        std::sort(members_.begin(), members_.end());
    }

    // Fills moves_ [classes of bytes], and reads_ with those that lead anywhere, in the order in which they are met.
    void find_moves(std::size_t subset) {
        labels_.clear();
        reads_.clear();
        int64_t followed = subsets_.end(subset) - subsets_.begin(subset);
        for (const int32_t* member = subsets_.begin(subset); member != subsets_.end(subset); ++member) {
            for (const Nfa::Edge& edge : nfa_.edges[*member]) {
                if (by_label_[edge.label].empty()) labels_.push_back(edge.label);
                by_label_[edge.label].push_back(edge.target);
            }
        }
        for (const int32_t label : labels_) {
            for (const int32_t read : spread_[label]) {
                std::vector<int32_t>& targets = moves_[read];
                if (targets.empty()) reads_.push_back(read);
                targets.insert(targets.end(), by_label_[label].begin(), by_label_[label].end());
                followed += kStepsAMove + static_cast<int64_t>(targets.size());
            }
            by_label_[label].clear();
        }
        budget_.spend(followed);
    }

    const Nfa& nfa_;
    Budget& budget_;
    Dfa out_;
    Numbers subsets_, known_;         // sets; where bytes lead before empty transitions are followed
    std::vector<uint8_t> seen_;
    std::vector<int32_t> single_;     // [NFA states], as of_known_ for one state alone
    std::vector<int32_t> of_known_;   // the number of the set; -1 where it is not known yet
    std::vector<int32_t> members_, reached_, labels_, reads_;
    std::vector<std::vector<int32_t>> spread_, by_label_, moves_;  // the classes that a label is made of; targets
};

// Compiles one expression, and the parts of every intersection and difference in it, each as one of its own.
class Builder : public Combinations {
public:
    explicit Builder(Expression& expression) : expression_(expression), budget_(expression) {}

    // The minimal automaton, or null if nothing matches.
    std::unique_ptr<Dfa> compile(int64_t part) {
        const Nfa nfa(expression_, part, budget_, *this);
        auto automaton = std::make_unique<Dfa>(Subsets(nfa, budget_).automaton());
        return minimise(*automaton, budget_) ? std::move(automaton) : nullptr;
    }

    const Dfa* of(int64_t part) override {
        const auto known = made_.find(part);
        if (known != made_.end()) return known->second.get();
        auto automaton = combined(expression_.code + expression_.start[part]);
        return (made_[part] = std::move(automaton)).get();
    }

private:
    std::unique_ptr<Dfa> combined(const int64_t* code) {
        const bool excludes = code[0] == static_cast<int64_t>(Kind::without);
        const int64_t* parts = excludes ? code + 1 : code + 2;
        const int64_t count = excludes ? 2 : code[1];
        if (nested_ == budget_.max_depth()) throw Budget::Passed{Outcome::depth};
        ++nested_;
        std::vector<std::unique_ptr<Dfa>> automata;
        for (int64_t i = 0; i < count; ++i) automata.push_back(compile(parts[i]));
        --nested_;
        std::unique_ptr<Dfa> whole = std::move(automata[0]);
        for (int64_t i = 1; i < count && whole; ++i) {
            const Dfa* other = automata[i].get();
            if (other == nullptr && excludes) break;
            if (other == nullptr) return nullptr;
            *whole = excludes ? difference(*whole, *other, budget_) : product(*whole, *other, budget_);
            if (!minimise(*whole, budget_)) return nullptr;
        }
        return whole;
    }

    Expression& expression_;
    Budget budget_;
    int64_t nested_ = 0;
    std::unordered_map<int64_t, std::unique_ptr<Dfa>> made_;
};

}  // namespace

void build(Expression& expression) {
    expression.automaton = nullptr;
    try {
        std::unique_ptr<Dfa> automaton = Builder(expression).compile(expression.root);
        expression.outcome = static_cast<int64_t>(automaton ? Outcome::built : Outcome::nothing);
        if (automaton) expression.states = static_cast<int64_t>(automaton->states());
        expression.automaton = automaton.release();
    } catch (const Budget::Passed& passed) {
        expression.outcome = static_cast<int64_t>(passed.outcome);
    } catch (const std::bad_alloc&) {
        expression.outcome = static_cast<int64_t>(Outcome::memory);
    }
}

void take(void* built, int32_t* transitions, uint8_t* accepting) {
    const std::unique_ptr<Dfa> automaton(static_cast<Dfa*>(built));
    const std::size_t states = automaton->states();
    std::fill(transitions, transitions + 256 * (states + 1), static_cast<int32_t>(states));
    std::vector<std::vector<uint8_t>> bytes(automaton->classes.size());
    for (std::size_t number = 0; number < bytes.size(); ++number)
        for (int byte = 0; byte < 256; ++byte)
            if (automaton->classes[number].has(byte)) bytes[number].push_back(static_cast<uint8_t>(byte));
    for (std::size_t state = 0; state < states; ++state) {
        for (const Dfa::Move* move = automaton->begin(state); move != automaton->end(state); ++move)
            for (const uint8_t byte : bytes[move->read]) transitions[256 * state + byte] = move->target;
        accepting[state] = automaton->accepting[state];
    }
    accepting[states] = 0;
}

}  // namespace redraft
