/** Puzzles to begin with, from easy to hard; each has exactly one solution. */

export const PUZZLES = [
  { name: "30 givens", cells: "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79" },
  { name: "17 givens", cells: "000000010400000000020000000000050407008000300001090000300400200050100000000806000" },
] as const;
