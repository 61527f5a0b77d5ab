// From an expression to its smallest byte automaton: constrain/automaton/bytes.py is the specification, and the steps
// are counted as it counts them, so that the same expressions are refused.
#pragma once

#include <cstdint>

namespace redraft {

// What a build came to: built, nothing matches, or the limit that was passed.
enum class Outcome : int64_t { built, nothing, steps, nfa, states, minimal_states, members, depth, memory };

struct Expression {
    const int64_t* code;         // the parts one after the other, each its kind and what it is made of
    const int64_t* start;        // [parts + 1]: where each begins; parts are named by their place here
    int64_t parts, root;
    int64_t max_nfa_states, max_nfa_transitions, max_states, max_minimal_states, max_steps, max_members, max_depth;
    int64_t steps, members;      // spent before, and afterwards in all
    int64_t outcome;             // of Outcome
    int64_t reached, reached_transitions;  // how many states (and transitions) the passed limit was asked for
    int64_t states;              // of the automaton
    void* automaton;             // for `take`; null where there is none
};

// Builds the automaton, and fills in what the last lines of the structure say.
void build(Expression&);

// Writes an automaton's transitions [states + 1, 256] and whether its states accept [states + 1], and frees it.
void take(void* automaton, int32_t* transitions, uint8_t* accepting);

}  // namespace redraft
