#include "nfa.h"

#include <string>
#include <unordered_map>

namespace redraft {
namespace {

constexpr int64_t kMany = 64;            // so many texts are looked through for what they have in common
constexpr int64_t kStepsAPart = 10;      // wiring a part takes about as long as following so many transitions
constexpr int64_t kCheckedEvery = 4096;  // transitions

// Code points of one UTF-8 length: first, last, the lead byte of code point 0, code points of one lead byte.
constexpr int64_t kUtf8Lengths[][4] = {
    {0x0, 0x7F, 0x00, 1},
    {0x80, 0x7FF, 0xC0, 1 << 6},
    {0x800, 0xFFFF, 0xE0, 1 << 12},
    {0x10000, 0x10FFFF, 0xF0, 1 << 18},
};

// The smallest automaton of many texts: each node whether a text ends there, then its bytes and the nodes after them.
// Sorted texts are added one after the other, and what can no longer grow is shared (Daciuk et al. 2000).
class SharedTexts {
public:
    explicit SharedTexts(std::vector<std::string> texts) : open_(1, {0}) {
        std::sort(texts.begin(), texts.end());
        texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
        for (const std::string& text : texts) {
            std::size_t common = 0;
            while (common < std::min(before_.size(), text.size()) && before_[common] == text[common]) ++common;
            close(common);
            open_.resize(text.size() + 1, {0});
            open_.back()[0] = 1;
            before_ = text;
        }
        close(0);
    }

    // All nodes but the start, which comes last.
    std::size_t size() const { return nodes_.size() + 1; }
    std::pair<const int32_t*, const int32_t*> node(std::size_t number) const {
        if (number < nodes_.size()) return {nodes_.begin(number), nodes_.end(number)};
        return {open_[0].data(), open_[0].data() + open_[0].size()};
    }

private:
    void close(std::size_t length) {
        while (open_.size() > length + 1) {
            const int32_t number = nodes_.of(open_.back()).first;
            open_.pop_back();
            open_.back().push_back(static_cast<uint8_t>(before_[open_.size() - 1]));
            open_.back().push_back(number);
        }
    }

    Numbers nodes_;
    std::vector<std::vector<int32_t>> open_;  // of the text that was added last, and of all that it begins with
    std::string before_;
};

}  // namespace

// The smallest automaton of some characters; it leads from 0 to 1, other states are above.
class Utf8 {
public:
    using Ranges = Nfa::Ranges;

    static Nfa::Characters characters(const Ranges& ranges) {
        Utf8 made;
        made.states_[{1, {{0, 0}}}] = 1;
        for (const auto& [first, last, lead, size] : kUtf8Lengths) {
            Ranges within;
            for (const auto& [a, b] : ranges)
                if (a <= last && b >= first) within.emplace_back(std::max(a, first), std::min(b, last));
            made.add(0, lead, size, within);
        }
        return {std::move(made.edges_), static_cast<int32_t>(made.states_.size()) - 1};
    }

private:
    // Cut at the multiples of `size`: by the number of the piece, what lies in it, counted from its start.
    static std::vector<std::pair<int64_t, Ranges>> groups(const Ranges& ranges, int64_t size) {
        std::vector<std::pair<int64_t, Ranges>> cut;
        for (const auto& [first, last] : ranges) {
            for (int64_t group = first / size; group <= last / size; ++group) {
                if (cut.empty() || cut.back().first != group) cut.emplace_back(group, Ranges());
                const int64_t start = group * size;
                cut.back().second.emplace_back(std::max<int64_t>(first - start, 0), std::min(last - start, size - 1));
            }
        }
        return cut;
    }

    void add(int32_t source, int64_t lead, int64_t size, const Ranges& within) {
        std::vector<std::pair<int32_t, ByteSet>> masks;
        for (const auto& [group, rest] : groups(within, size)) {
            const int32_t target = state(size, rest);
            auto mask = std::find_if(masks.begin(), masks.end(), [&](const auto& one) { return one.first == target; });
            if (mask == masks.end()) mask = masks.insert(mask, {target, ByteSet()});
            mask->second = mask->second | ByteSet::of(static_cast<int>(lead + group));
        }
        for (const auto& [target, mask] : masks) edges_.push_back({source, mask, target, -1});
    }

    // By how many code points are still possible and which of them are meant, both counted from the first possible one.
    int32_t state(int64_t size, const Ranges& rest) {
        const auto known = states_.find({size, rest});
        if (known != states_.end()) return known->second;
        const auto number = static_cast<int32_t>(states_.size()) + 1;
        states_[{size, rest}] = number;
        add(number, 0x80, size >> 6, rest);
        return number;
    }

    std::map<std::pair<int64_t, Ranges>, int32_t> states_;
    std::vector<Nfa::Step> edges_;
};

Nfa::Nfa(const Expression& expression, int64_t root, Budget& budget, Combinations& combinations)
    : expression_(expression), budget_(budget), combinations_(combinations), characters_of_part_(expression.parts) {
    add_states(2);
    wire({root, kStart, kEnd});
    while (!waiting_.empty()) {
        budget_.spend(kStepsAPart);
        const Waiting one = waiting_.back();
        waiting_.pop_back();
        wire(one);
    }
    edges.lay(states());
    skips.lay(states());
}

int32_t Nfa::add_states(int64_t count) {
    const int64_t first = states_;
    budget_.check_nfa(first + count, transitions_);
    states_ += count;
    return static_cast<int32_t>(first);
}

int32_t Nfa::label_of(const ByteSet& bytes) {
    const auto [label, fresh] = label_numbers_.try_emplace(bytes.words, static_cast<int32_t>(labels.size()));
    if (fresh) labels.push_back(bytes);
    return label->second;
}

void Nfa::add_labelled(int32_t source, int32_t label, int32_t target) {
    edges.add(source, {label, target});
    count_transition();
}

void Nfa::add_edge(int32_t source, const ByteSet& bytes, int32_t target) {
    add_labelled(source, label_of(bytes), target);
}

void Nfa::skip(int32_t source, int32_t target) {
    skips.add(source, target);
    count_transition();
}

void Nfa::count_transition() {
    if (++transitions_ % kCheckedEvery == 0) budget_.check_nfa(states_, transitions_);
}

void Nfa::wire(const Waiting& one) {
    if (one.part == kEmpty) return skip(one.entry, one.leave);
    const int64_t* at = code(one.part);
    switch (static_cast<Kind>(at[0])) {
        case Kind::literal: return wire_bytes(at + 2, at[1], one.entry, one.leave);
        case Kind::characters: return wire_characters(one.part, one.entry, one.leave);
        case Kind::marker: return add_edge(one.entry, ByteSet::of(static_cast<int>(at[1])), one.leave);
        case Kind::sequence: return wire_sequence(at + 2, one.parts < 0 ? at[1] : one.parts, one.entry, one.leave);
        case Kind::any_of: return wire_options(at, one.entry, one.leave);
        case Kind::repeat: return wire_repeat(at[1], at[2], at[3], one.entry, one.leave);
        case Kind::network: return wire_network(at, one.entry, one.leave);
        case Kind::all_of:
        case Kind::without: return wire_combination(one.part, one.entry, one.leave);
    }
}

// The states from `entry` over new ones to `leave`.
std::vector<int32_t> Nfa::path(int32_t entry, int64_t between, int32_t leave) {
    const int32_t first = add_states(between);
    std::vector<int32_t> states{entry};
    for (int64_t i = 0; i < between; ++i) states.push_back(first + static_cast<int32_t>(i));
    states.push_back(leave);
    return states;
}

void Nfa::wire_bytes(const int64_t* text, int64_t length, int32_t entry, int32_t leave) {
    if (!length) return skip(entry, leave);
    const std::vector<int32_t> states = path(entry, length - 1, leave);
    for (int64_t i = 0; i < length; ++i) add_edge(states[i], ByteSet::of(static_cast<int>(text[i])), states[i + 1]);
}

void Nfa::wire_options(const int64_t* at, int32_t entry, int32_t leave) {
    const int64_t *parts = at + 2, count = at[1];
    if (count >= kMany && std::all_of(parts, parts + count, [&](int64_t part) { return is(part, Kind::literal); }))
        return wire_texts(parts, count, entry, leave);
    for (int64_t i = 0; i < count; ++i) waiting_.push_back({parts[i], entry, leave});
}

void Nfa::wire_texts(const int64_t* parts, int64_t count, int32_t entry, int32_t leave) {
    std::vector<std::string> texts;
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t* text = code(parts[i]);
        texts.emplace_back(text + 2, text + 2 + text[1]);
        bytes += text[1];
    }
    // Bytes above 127 are ordered as the others are, by their value.
    const SharedTexts shared(std::move(texts));
    budget_.spend(bytes);
    const int32_t first = add_states(static_cast<int64_t>(shared.size()));
    for (std::size_t number = 0; number < shared.size(); ++number) {
        const auto state = first + static_cast<int32_t>(number);
        const auto [begin, end] = shared.node(number);
        for (const int32_t* edge = begin + 1; edge < end; edge += 2)
            add_edge(state, ByteSet::of(edge[0]), first + edge[1]);
        if (*begin) skip(state, leave);
    }
    skip(entry, first + static_cast<int32_t>(shared.size()) - 1);
}

Nfa::Characters* Nfa::characters_of(const int64_t* at) {
    Ranges ranges;
    for (int64_t i = 0; i < at[1]; ++i) ranges.emplace_back(at[2 + 2 * i], at[3 + 2 * i]);
    const auto known = characters_.find(ranges);
    return known != characters_.end() ? &known->second
                                      : &characters_.emplace(ranges, Utf8::characters(ranges)).first->second;
}

void Nfa::wire_characters(int64_t part, int32_t entry, int32_t leave) {
    Characters*& characters = characters_of_part_[part];
    if (characters == nullptr) characters = characters_of(code(part));
    const int32_t first = add_states(characters->inner);
    const auto state = [&](int32_t number) { return number == 0 ? entry : number == 1 ? leave : first + number - 2; };
    for (Step& step : characters->steps) {
        if (step.label < 0) step.label = label_of(step.bytes);
        add_labelled(state(step.source), step.label, state(step.target));
    }
}

// Whether an item and the part after it make a list, whose separator is the beginning of a sequence.
bool Nfa::separates(int64_t item, int64_t following, Waiting& separator) const {
    if (!is(following, Kind::repeat)) return false;
    const int64_t *repeat = code(following), inner = repeat[1];
    if (repeat[2] != 0 || repeat[3] != kUnbounded || !is(inner, Kind::sequence)) return false;
    const int64_t *sequence = code(inner), count = sequence[1];
    if (count < 2 || sequence[1 + count] != item) return false;
    separator.part = inner;
    separator.parts = count - 1;
    return true;
}

void Nfa::wire_sequence(const int64_t* parts, int64_t count, int32_t entry, int32_t leave) {
    if (!count) return skip(entry, leave);
    const std::vector<int32_t> states = path(entry, count - 1, leave);
    for (int64_t position = 0; position < count;) {
        Waiting separator{kEmpty, 0, 0};
        if (position + 1 < count && separates(parts[position], parts[position + 1], separator)) {
            wire_list({parts[position], 0, 0}, separator, states[position], states[position + 2]);
            position += 2;
        } else {
            waiting_.push_back({parts[position], states[position], states[position + 1]});
            position += 1;
        }
    }
}

// item (separator item)* with one item, not two: in nested lists they would double at every level.
void Nfa::wire_list(const Waiting& item, const Waiting& separator, int32_t entry, int32_t leave) {
    const int32_t before = add_states(2), after = before + 1;
    skip(entry, before);
    skip(after, leave);
    waiting_.push_back({item.part, before, after, item.parts});
    waiting_.push_back({separator.part, after, before, separator.parts});
}

void Nfa::wire_repeat(int64_t part, int64_t low, int64_t high, int32_t entry, int32_t leave) {
    if (high == kUnbounded && low <= 0) return wire_list({kEmpty, 0, 0}, {part, 0, 0}, entry, leave);
    if (high == kUnbounded) {
        int32_t state = entry;
        const int32_t first = add_states(low - 1);
        for (int64_t i = 0; i < low - 1; ++i) {
            waiting_.push_back({part, state, first + static_cast<int32_t>(i)});
            state = first + static_cast<int32_t>(i);
        }
        return wire_list({part, 0, 0}, {kEmpty, 0, 0}, state, leave);
    }
    if (high <= 0 && low <= 0) return skip(entry, leave);
    if (high < low) return;
    const std::vector<int32_t> states = path(entry, high - 1, leave);
    for (int64_t i = 0; i < high; ++i) waiting_.push_back({part, states[i], states[i + 1]});
    for (int64_t i = std::max<int64_t>(low, 0); i < high; ++i) skip(states[i], leave);
}

void Nfa::wire_network(const int64_t* at, int32_t entry, int32_t leave) {
    // Ways may lead back to the first place and on from the last one, so these are states of its own.
    const int32_t first = add_states(at[1]);
    skip(entry, first);
    skip(first + 1, leave);
    for (const int64_t* edge = at + 3; edge < at + 3 + 3 * at[2]; edge += 3)
        waiting_.push_back({edge[1], first + static_cast<int32_t>(edge[0]), first + static_cast<int32_t>(edge[2])});
}

void Nfa::wire_combination(int64_t part, int32_t entry, int32_t leave) {
    const Dfa* automaton = combinations_.of(part);
    if (automaton == nullptr) return;
    const int32_t first = add_states(static_cast<int64_t>(automaton->states()));
    skip(entry, first);
    std::vector<std::pair<int32_t, ByteSet>> masks;
    std::vector<int32_t> mask_of(automaton->states(), -1);
    for (std::size_t state = 0; state < automaton->states(); ++state) {
        masks.clear();
        for (const Dfa::Move* move = automaton->begin(state); move != automaton->end(state); ++move) {
            int32_t& mask = mask_of[move->target];
            if (mask < 0) {
                mask = static_cast<int32_t>(masks.size());
                masks.emplace_back(move->target, ByteSet());
            }
            masks[mask].second = masks[mask].second | automaton->classes[move->read];
        }
        for (const auto& [target, mask] : masks) {
            mask_of[target] = -1;
            add_edge(first + static_cast<int32_t>(state), mask, first + target);
        }
        if (automaton->accepting[state]) skip(first + static_cast<int32_t>(state), leave);
    }
}

}  // namespace redraft
