// Inference along a token automaton, on two threads: the best sequence beside the sums, then the sample beside the
// marginals.
//
// Sums are of numbers with an exponent of their own, which neither underflow where a forced path lies e^-4000 below the
// best nor need an exponential for each edge, as sums of logarithms do.
#include "chain.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "scratch.h"
#include "threads.h"

namespace redraft {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLog2 = 0.693147180559945309417232121458;
constexpr double kNever = 1e-290;                  // products of a probability below this could lose their accuracy
constexpr int64_t kNothing = -(int64_t{1} << 60);  // the exponent of zero, below that of any other number

// A kernel before this may have left the upper halves of the vector registers in use. Code without AVX, like this, then
// waits for them with every instruction, and takes many times as long.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
__attribute__((target("avx"))) void zero_upper_halves() { __builtin_ia32_vzeroupper(); }
void forget_upper_halves() {
    if (__builtin_cpu_supports("avx")) zero_upper_halves();
}
#else
void forget_upper_halves() {}
#endif

// mantissa * 2^exponent, the mantissa from 1/2 up to 1.
struct Wide {
    double mantissa;
    int64_t exponent;
};

constexpr Wide kZero{0, kNothing};

// 2^n, or 0 where that is too small for a normal number; n is never much above 0.
double power_of_two(int64_t n) {
    const uint64_t bits = n < -1022 ? 0 : static_cast<uint64_t>(n + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

Wide wide(double value, int64_t exponent = 0) {
    if (!(value > 0)) return kZero;
    int own;
    const double mantissa = std::frexp(value, &own);
    return {mantissa, exponent + own};
}

Wide wide_exp(double log) {
    if (log == -kInfinity) return kZero;
    const double power = std::floor(log / kLog2);
    return wide(std::exp(log - power * kLog2), static_cast<int64_t>(power));
}

double log_of(Wide x) {
    return x.mantissa > 0 ? std::log(x.mantissa) + kLog2 * static_cast<double>(x.exponent) : -kInfinity;
}

// The mantissa of a product or a sum is not brought back to its range, which the terms of one sum do not need.
Wide operator*(Wide a, Wide b) { return {a.mantissa * b.mantissa, a.exponent + b.exponent}; }

Wide operator+(Wide a, Wide b) {
    if (a.exponent < b.exponent) std::swap(a, b);
    return {a.mantissa + b.mantissa * power_of_two(b.exponent - a.exponent), a.exponent};
}

// The index at `uniform` of the sum of weight(0), ..., weight(count - 1), never one that weighs nothing.
template <class Weight>
int64_t at(int64_t count, double uniform, const Weight& weight) {
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += weight(k);
    const double target = uniform * sum;
    double passed = 0;
    int64_t last = 0;
    for (int64_t k = 0; k < count; ++k) {
        const double own = weight(k);
        if (own > 0) last = k;
        passed += own;
        if (passed > target) break;
    }
    return last;
}

// The states that can stand before each position, whatever the tokens, ascending; END comes last.
class Reach {
public:
    explicit Reach(const Chain& c) {
        std::vector<uint8_t> seen(c.states + 1);
        lists_.emplace_back(1, static_cast<int32_t>(c.start));
        while (static_cast<int64_t>(lists_.size()) <= c.length) {
            std::vector<int32_t> next = after(c, lists_.back(), seen);
            // From here on nothing changes: all later positions share the last list.
            if (next == lists_.back()) break;
            lists_.push_back(std::move(next));
        }
    }

    const std::vector<int32_t>& before(int64_t i) const {
        return lists_[std::min(i, static_cast<int64_t>(lists_.size()) - 1)];
    }

private:
    static std::vector<int32_t> after(const Chain& c, const std::vector<int32_t>& states, std::vector<uint8_t>& seen) {
        std::fill(seen.begin(), seen.end(), uint8_t{0});
        for (const int32_t s : states) {
            if (s == c.states) {
                seen[s] = 1;
                continue;
            }
            for (int64_t e = c.edge_start[s]; e < c.edge_start[s + 1]; ++e) seen[c.edge_target[e]] = 1;
        }
        std::vector<int32_t> found;
        for (int64_t s = 0; s <= c.states; ++s) {
            if (seen[s]) found.push_back(static_cast<int32_t>(s));
        }
        return found;
    }

    std::vector<std::vector<int32_t>> lists_;
};

class Inference {
public:
    explicit Inference(const Chain& chain)
        : c(chain),
          width_(c.states + 1),
          reach_(c),
          choices_(room<int32_t>(Slot::choices, c.length * width_)),
          groups_(room<Wide>(Slot::groups, c.length * c.groups)),
          messages_(room<Wide>(Slot::messages, (c.length + 1) * width_)),
          scores_(c.end, c.end + width_),
          before_(width_),
          group_peaks_(c.groups),
          linear_(c.classes),
          states_(width_),
          next_(width_),
          taken_(c.groups),
          multipliers_(c.classes) {}

    void run() {
        parallel_for(2, [&](int part) {
            forget_upper_halves();
            part == 0 ? find_best() : sum_backward();
        });
        if (*c.best_logprob == -kInfinity) return;
        *c.log_valid = log_of(messages_[c.start]);
        parallel_for(2, [&](int part) {
            forget_upper_halves();
            part == 0 ? sample() : sum_forward();
        });
    }

private:
    template <class T>
    static T* room(Slot slot, int64_t count) {
        return static_cast<T*>(scratch(slot, static_cast<std::size_t>(count) * sizeof(T)));
    }

    const double* row(const double* table, int64_t i) const { return table + i * c.classes; }

    // Viterbi. Of equals the first edge wins, then the first class.
    void find_best() {
        std::vector<double>&scores = scores_, &before = before_, &groups = group_peaks_;
        for (int64_t i = c.length - 1; i >= 0; --i) {
            const double* peak = row(c.peak, i);
            for (int64_t g = 0; g < c.groups; ++g) {
                double best = -kInfinity;
                for (int64_t k = c.group_start[g]; k < c.group_start[g + 1]; ++k) {
                    best = std::max(best, peak[c.group_class[k]]);
                }
                groups[g] = best;
            }
            for (const int32_t s : reach_.before(i)) {
                if (s == c.states) {
                    before[s] = scores[s] + c.best_tail[i];
                    continue;
                }
                double best = -kInfinity;
                int64_t first = c.edge_start[s];
                for (int64_t e = first; e < c.edge_start[s + 1]; ++e) {
                    const double score = groups[c.edge_group[e]] + scores[c.edge_target[e]];
                    if (score > best) {
                        best = score;
                        first = e;
                    }
                }
                before[s] = best;
                choices_[i * width_ + s] = static_cast<int32_t>(first - c.edge_start[s]);
            }
            scores.swap(before);
        }
        *c.best_logprob = scores[c.start];
        if (*c.best_logprob == -kInfinity) return;
        walk(c.best_states, c.best_classes, [&](int64_t i, int64_t s) { return choices_[i * width_ + s]; },
             [&](int64_t i, int64_t g) {
                 const int32_t* first = c.group_class + c.group_start[g];
                 const int32_t* last = c.group_class + c.group_start[g + 1];
                 const double* peak = row(c.peak, i);
                 return std::max_element(first, last, [&](int32_t a, int32_t b) { return peak[a] < peak[b]; }) - first;
             });
    }

    // Follows edge(position, state) and notes class_of(position, group), both counted from the first there is.
    template <class Edge, class Class>
    void walk(int64_t* states, int64_t* classes, const Edge& edge, const Class& class_of) const {
        int64_t s = c.start;
        for (int64_t i = 0; i < c.length; ++i) {
            states[i] = s;
            classes[i] = -1;
            if (s == c.states) continue;
            const int64_t e = c.edge_start[s] + edge(i, s);
            const int64_t g = c.edge_group[e];
            classes[i] = c.group_class[c.group_start[g] + class_of(i, g)];
            s = c.edge_target[e];
        }
        states[c.length] = s;
    }

    void weigh_groups() {
        std::vector<double>& linear = linear_;
        for (int64_t i = 0; i < c.length; ++i) {
            const double* total = row(c.total, i);
            for (int64_t n = 0; n < c.classes; ++n) linear[n] = std::exp(total[n]);
            for (int64_t g = 0; g < c.groups; ++g) {
                double sum = 0;
                for (int64_t k = c.group_start[g]; k < c.group_start[g + 1]; ++k) sum += linear[c.group_class[k]];
                // Far above where a term could have underflowed and be missed.
                groups_[i * c.groups + g] = sum > 1e-250 ? wide(sum) : tiny_group(total, g);
            }
        }
    }

    Wide tiny_group(const double* total, int64_t g) const {
        Wide sum = kZero;
        for (int64_t k = c.group_start[g]; k < c.group_start[g + 1]; ++k) sum = sum + wide_exp(total[c.group_class[k]]);
        return wide(sum.mantissa, sum.exponent);
    }

    // The weight of an edge at position i, times what can follow it.
    Wide onward(int64_t i, int64_t e) const {
        return groups_[i * c.groups + c.edge_group[e]] * messages_[(i + 1) * width_ + c.edge_target[e]];
    }

    void sum_backward() {
        weigh_groups();
        for (int64_t s = 0; s < width_; ++s) messages_[c.length * width_ + s] = wide_exp(c.end[s]);
        for (int64_t i = c.length - 1; i >= 0; --i) {
            for (const int32_t s : reach_.before(i)) {
                messages_[i * width_ + s] = s == c.states ? messages_[(i + 1) * width_ + s] : sum_of_edges(i, s);
            }
        }
    }

    Wide sum_of_edges(int64_t i, int64_t s) const {
        int64_t top = kNothing;
        for (int64_t e = c.edge_start[s]; e < c.edge_start[s + 1]; ++e) top = std::max(top, onward(i, e).exponent);
        double sum = 0;
        for (int64_t e = c.edge_start[s]; e < c.edge_start[s + 1]; ++e) {
            const Wide term = onward(i, e);
            sum += term.mantissa * power_of_two(term.exponent - top);
        }
        return wide(sum, top);
    }

    // The probability of an edge, given its state before position i.
    double transition(int64_t i, int64_t s, int64_t e) const {
        const Wide whole = messages_[i * width_ + s], part = onward(i, e);
        return part.mantissa / whole.mantissa * power_of_two(part.exponent - whole.exponent);
    }

    void sample() const {
        walk(c.sampled_states, c.sampled_classes,
             [&](int64_t i, int64_t s) {
                 const int64_t first = c.edge_start[s];
                 return at(c.edge_start[s + 1] - first, c.uniforms[2 * i],
                           [&](int64_t k) { return transition(i, s, first + k); });
             },
             [&](int64_t i, int64_t g) {
                 const int64_t first = c.group_start[g];
                 const double* total = row(c.total, i);
                 const double group = log_of(groups_[i * c.groups + g]);
                 return at(c.group_start[g + 1] - first, c.uniforms[2 * i + 1],
                           [&](int64_t k) { return std::exp(total[c.group_class[first + k]] - group); });
             });
    }

    // Marginals: a transition divided by the messages is a probability, and plain numbers will do.
    void sum_forward() {
        std::vector<double>&states = states_, &next = next_, &taken = taken_;
        Multipliers& multipliers = multipliers_;
        states[c.start] = 1;
        for (int64_t i = 0; i < c.length; ++i) {
            std::fill(next.begin(), next.end(), 0.0);
            std::fill(taken.begin(), taken.end(), 0.0);
            c.tail[i] = next[c.states] = states[c.states];
            for (const int32_t s : reach_.before(i)) {
                if (s == c.states || states[s] < kNever) continue;
                for (int64_t e = c.edge_start[s]; e < c.edge_start[s + 1]; ++e) {
                    const double moved = states[s] * transition(i, s, e);
                    next[c.edge_target[e]] += moved;
                    taken[c.edge_group[e]] += moved;
                }
            }
            states.swap(next);
            multipliers.clear();
            for (int64_t g = 0; g < c.groups; ++g) {
                if (taken[g] > 0) add(multipliers, g, taken[g], groups_[i * c.groups + g]);
            }
            finish(i, multipliers);
        }
    }

    // By class: the probability of its groups over their weight, which a forced but unlikely group can make too large
    // for a plain number.
    struct Multipliers {
        explicit Multipliers(int64_t classes) : plain(classes), huge(classes, kZero) {}

        void clear() {
            std::fill(plain.begin(), plain.end(), 0.0);
            if (any_huge) std::fill(huge.begin(), huge.end(), kZero);
            any_huge = false;
        }

        std::vector<double> plain;
        std::vector<Wide> huge;
        bool any_huge = false;
    };

    void add(Multipliers& to, int64_t g, double probability, Wide weight) const {
        const double quotient = probability / weight.mantissa;
        const int32_t* last = c.group_class + c.group_start[g + 1];
        if (weight.exponent > -900) {
            const double ratio = quotient * power_of_two(-weight.exponent);
            for (const int32_t* n = c.group_class + c.group_start[g]; n < last; ++n) to.plain[*n] += ratio;
        } else {
            to.any_huge = true;
            const Wide ratio = wide(quotient, -weight.exponent);
            for (const int32_t* n = c.group_class + c.group_start[g]; n < last; ++n) to.huge[*n] = to.huge[*n] + ratio;
        }
    }

    void finish(int64_t i, const Multipliers& multipliers) const {
        const double *total = row(c.total, i), *spread = row(c.spread, i), tail = c.tail[i];
        double* out = c.log_multiplier + i * c.classes;
        double entropy = 0;
        for (int64_t n = 0; n < c.classes; ++n) {
            const double plain = multipliers.plain[n];
            double log_ratio;
            if (multipliers.any_huge) {
                const Wide multiplier = wide(plain) + multipliers.huge[n];
                out[n] = log_of(multiplier);
                log_ratio = log_of(multiplier + wide(tail));
            } else {
                out[n] = plain > 0 ? std::log(plain) : -kInfinity;
                log_ratio = tail > 0 ? std::log(plain + tail) : out[n];
            }
            if (log_ratio == -kInfinity) continue;
            const double log_share = log_ratio + total[n], share = std::exp(log_share);
            if (share > 0) entropy += share * (spread[n] - log_share);
        }
        c.entropy[i] = std::max(entropy, 0.0);
    }

    const Chain& c;
    const int64_t width_;
    const Reach reach_;
    int32_t* const choices_;  // [length, states + 1]: the best edge, counted from the state's first
    Wide* const groups_;      // [length, groups]: weights
    Wide* const messages_;    // [length + 1, states + 1]: the sum over all ways to go on; only of states in reach
    // Made beforehand: what runs on several threads must not throw for want of memory.
    std::vector<double> scores_, before_, group_peaks_;  // of find_best
    std::vector<double> linear_;                         // of weigh_groups
    std::vector<double> states_, next_, taken_;          // of sum_forward
    Multipliers multipliers_;
};

// Token after token: which classes may follow is known exactly, and nothing that comes later is weighed.
class InOrder {
public:
    explicit InOrder(const Chain& chain)
        : c(chain),
          width_(c.states + 1),
          reach_(c),
          possible_((c.length + 1) * width_),
          group_possible_(c.groups),
          allowed_(c.classes),
          seen_(width_),
          reached_(c.length + 1) {}

    void run() {
        find_possible();
        *c.best_logprob = -kInfinity;
        if (!possible_[c.start]) return;
        *c.best_logprob = *c.log_valid = 0;
        follow(c.best_states, c.best_classes, [&](int64_t i) { return likeliest(i); });
        for (int64_t i = 0; i < c.length; ++i) {
            if (c.best_classes[i] < 0) leave_open(i);
        }
        follow(c.sampled_states, c.sampled_classes, [&](int64_t i) { return drawn(i); });
    }

private:
    const double* row(const double* table, int64_t i) const { return table + i * c.classes; }

    void find_possible() {
        for (int64_t s = 0; s < width_; ++s) possible_[c.length * width_ + s] = c.end[s] > -kInfinity;
        for (int64_t i = c.length - 1; i >= 0; --i) {
            const double* peak = row(c.peak, i);
            for (int64_t g = 0; g < c.groups; ++g) {
                group_possible_[g] = std::any_of(c.group_class + c.group_start[g], c.group_class + c.group_start[g + 1],
                                                 [&](int32_t n) { return peak[n] > -kInfinity; });
            }
            for (const int32_t s : reach_.before(i)) {
                if (s == c.states) {
                    possible_[i * width_ + s] = possible_[(i + 1) * width_ + s];
                    continue;
                }
                bool found = false;
                for (int64_t e = c.edge_start[s]; !found && e < c.edge_start[s + 1]; ++e) {
                    found = group_possible_[c.edge_group[e]] && leads_on(i, e);
                }
                possible_[i * width_ + s] = found;
            }
        }
    }

    bool leads_on(int64_t i, int64_t e) const { return possible_[(i + 1) * width_ + c.edge_target[e]]; }

    bool holds(int64_t e, int64_t n) const {
        const int64_t g = c.edge_group[e];
        const int32_t* last = c.group_class + c.group_start[g + 1];
        return std::find(c.group_class + c.group_start[g], last, static_cast<int32_t>(n)) != last;
    }

    // A class may lead from a state to several, of which a later one decides: all are kept.
    template <class Choose>
    void follow(int64_t* states, int64_t* classes, const Choose& choose) {
        reached_[0].assign(1, static_cast<int32_t>(c.start));
        for (int64_t i = 0; i < c.length; ++i) {
            std::vector<int32_t>& next = reached_[i + 1];
            next.clear();
            const bool ended = std::find(reached_[i].begin(), reached_[i].end(), c.states) != reached_[i].end();
            if (ended) {
                next.push_back(static_cast<int32_t>(c.states));
                classes[i] = -1;
                continue;
            }
            allow(i);
            classes[i] = choose(i);
            std::fill(seen_.begin(), seen_.end(), uint8_t{0});
            for (const int32_t s : reached_[i]) {
                for (int64_t e = c.edge_start[s]; e < c.edge_start[s + 1]; ++e) {
                    if (leads_on(i, e) && holds(e, classes[i])) seen_[c.edge_target[e]] = 1;
                }
            }
            for (int64_t s = 0; s < width_; ++s) {
                if (seen_[s]) next.push_back(static_cast<int32_t>(s));
            }
        }
        trace(states, classes);
    }

    // Marks the classes that may stand at a position behind what was chosen before it.
    void allow(int64_t i) {
        std::fill(allowed_.begin(), allowed_.end(), uint8_t{0});
        const double* peak = row(c.peak, i);
        for (const int32_t s : reached_[i]) {
            for (int64_t e = c.edge_start[s]; e < c.edge_start[s + 1]; ++e) {
                if (!leads_on(i, e)) continue;
                const int64_t g = c.edge_group[e];
                for (int64_t k = c.group_start[g]; k < c.group_start[g + 1]; ++k) {
                    const int32_t n = c.group_class[k];
                    if (peak[n] > -kInfinity) allowed_[n] = 1;
                }
            }
        }
    }

    double largest_allowed(const double* total) const {
        double top = -kInfinity;
        for (int64_t n = 0; n < c.classes; ++n) {
            if (allowed_[n]) top = std::max(top, total[n]);
        }
        return top;
    }

    int64_t likeliest(int64_t i) {
        const double *peak = row(c.peak, i), *total = row(c.total, i), *spread = row(c.spread, i);
        const double top = largest_allowed(total);
        int64_t best = -1;
        double sum = 0;
        for (int64_t n = 0; n < c.classes; ++n) {
            if (!allowed_[n]) continue;
            sum += std::exp(total[n] - top);
            if (best < 0 || peak[n] > peak[best]) best = n;
        }
        const double log_sum = top + std::log(sum);
        double* out = c.log_multiplier + i * c.classes;
        double entropy = 0;
        for (int64_t n = 0; n < c.classes; ++n) {
            out[n] = allowed_[n] ? -log_sum : -kInfinity;
            if (!allowed_[n]) continue;
            const double log_share = total[n] - log_sum;
            entropy += std::exp(log_share) * (spread[n] - log_share);
        }
        c.tail[i] = 0;
        c.entropy[i] = std::max(entropy, 0.0);
        *c.best_logprob += peak[best];
        *c.log_valid += std::min(log_sum, 0.0);
        return best;
    }

    // Behind the end any token may stand.
    void leave_open(int64_t i) {
        const double *total = row(c.total, i), *spread = row(c.spread, i);
        double entropy = 0;
        for (int64_t n = 0; n < c.classes; ++n) {
            c.log_multiplier[i * c.classes + n] = -kInfinity;
            const double share = std::exp(total[n]);
            if (share > 0) entropy += share * (spread[n] - total[n]);
        }
        c.tail[i] = 1;
        c.entropy[i] = std::max(entropy, 0.0);
        *c.best_logprob += c.best_tail[i];
    }

    int64_t drawn(int64_t i) const {
        const double* total = row(c.total, i);
        const double top = largest_allowed(total);
        return at(c.classes, c.uniforms[2 * i], [&](int64_t n) { return allowed_[n] ? std::exp(total[n] - top) : 0.0; });
    }

    // The states that lead to the last one.
    void trace(int64_t* states, const int64_t* classes) const {
        states[c.length] = reached_[c.length].front();
        for (int64_t i = c.length - 1; i >= 0; --i) {
            states[i] = c.states;
            if (classes[i] < 0) continue;
            for (const int32_t s : reached_[i]) {
                bool leads = false;
                for (int64_t e = c.edge_start[s]; !leads && e < c.edge_start[s + 1]; ++e) {
                    leads = c.edge_target[e] == states[i + 1] && holds(e, classes[i]);
                }
                if (!leads) continue;
                states[i] = s;
                break;
            }
        }
    }

    const Chain& c;
    const int64_t width_;
    const Reach reach_;
    std::vector<uint8_t> possible_;  // [length + 1, states + 1]: only of states in reach
    std::vector<uint8_t> group_possible_, allowed_, seen_;
    std::vector<std::vector<int32_t>> reached_;  // before each position, ascending
};

}  // namespace

void infer(const Chain& chain) { Inference(chain).run(); }

void infer_in_order(const Chain& chain) {
    forget_upper_halves();
    InOrder(chain).run();
}

}  // namespace redraft
