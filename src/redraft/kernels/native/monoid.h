// What the tokens of a vocabulary do to the states of a byte automaton: constrain/automaton/monoid.py is the
// specification, and counts functions, steps and memory in the same way, so that the same constraints are refused.
#pragma once

#include <cstdint>

namespace redraft {

// What a walk came to: done, or the limit that was passed.
enum class WalkOutcome : int64_t { walked, steps, functions, bytes, moves, memory };

struct Walk {
    const int32_t* transitions;  // [states + 1, 256]; the last row is of the dead state
    const uint8_t* accepting;    // [states + 1]
    int64_t states, start;
    const int32_t* parent;       // [prefixes]: the prefix without its last byte, as the next two
    const uint8_t* byte;         // [prefixes]: the last byte
    const int64_t* level_start;  // [levels + 1]: prefixes of n bytes are those from level_start[n] on
    int64_t levels;
    const int32_t* token_node;   // [tokens]: the prefix that is the whole token
    const uint8_t* silent;       // [tokens]: whether a token stands for no text
    int64_t tokens;
    int64_t max_functions, max_bytes, max_steps, bytes_a_move;
    int32_t* token_class;        // [tokens]: filled in, as all that follows
    int32_t *distance, *reached;  // [states]: the fewest tokens to an accepting state, and from the start; -1 for none
    int64_t outcome;             // of WalkOutcome
    int64_t classes, moves;      // how many there are; where there are too many moves, how many there would be
    void* walked;                // for `take_moves`; null where there is none
};

// Walks the tree of all prefixes, and fills in what the last lines of the structure say.
void walk(Walk&);

// Writes the class, the state and the state after it of each move, by class, and frees them.
void take_moves(void* walked, int32_t* number, int32_t* source, int32_t* target);

}  // namespace redraft
