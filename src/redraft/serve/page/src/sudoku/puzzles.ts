/** Puzzles to begin with, from easy to hard; each has exactly one solution. The last is beyond the bundled model. */

export const PUZZLES = [
  { name: "30 givens", cells: "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79" },
  { name: "26 givens", cells: ".43.8.25.6.............1.949....4.7....6.8....1.2....382.5.............5.34.9.71." },
  { name: "17 givens", cells: ".......1.4.........2...........5.4.7..8...3....1.9....3..4..2...5.1........8.6..." },
  { name: "21, too hard", cells: "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.." },
] as const;
