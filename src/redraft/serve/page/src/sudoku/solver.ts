/** Finishes boards, and spoils them again: what a model is given to repair. */

import { SIZE, type Cells } from "./board";

const DIGITS = "123456789";

/** The unit of a cell: its row, its column, its box. */
const UNITS = Array.from({ length: SIZE * SIZE }, (_, cell) => {
  const row = Math.floor(cell / SIZE);
  const column = cell % SIZE;
  return [row, SIZE + column, 2 * SIZE + Math.floor(row / 3) * 3 + Math.floor(column / 3)] as const;
});
const ALL = (1 << SIZE) - 1;

/** Digits tried before a search is given up: boards without a solution may take forever. */
const MOST_TRIES = 500_000;

const ones = (mask: number): number => (mask ? 1 + ones(mask & (mask - 1)) : 0);

/** The first solution of a puzzle; null where there is none, or where none is found soon. */
export function solution(cells: Cells): Cells | null {
  const board = [...cells];
  // The digits that stand in each row, column and box, a bit each.
  const taken = new Uint16Array(3 * SIZE);
  const free = (cell: number): number =>
    UNITS[cell]?.reduce<number>((mask, unit) => mask & ~(taken[unit] ?? 0), ALL) ?? 0;
  const flip = (cell: number, bit: number): void =>
    UNITS[cell]?.forEach((unit) => (taken[unit] = (taken[unit] ?? 0) ^ bit));
  for (const [cell, digit] of board.entries()) {
    const bit = digit ? 1 << DIGITS.indexOf(digit) : 0;
    if (bit & ~free(cell)) return null;
    flip(cell, bit);
  }
  let tries = 0;
  const search = (): boolean => {
    let best = -1;
    let fewest = SIZE + 1;
    for (const [cell, digit] of board.entries()) {
      const count = digit ? SIZE + 1 : ones(free(cell));
      if (count < fewest) [best, fewest] = [cell, count];
    }
    if (best < 0) return true;
    for (let left = free(best); left; left &= left - 1) {
      if (++tries > MOST_TRIES) return false;
      const bit = left & -left;
      board[best] = DIGITS[31 - Math.clz32(bit)] ?? "";
      flip(best, bit);
      if (search()) return true;
      flip(best, bit);
    }
    board[best] = "";
    return false;
  };
  return search() ? board : null;
}

/** A solved board with other digits in `count` of the cells that the puzzle leaves blank. */
export function spoiled(givens: Cells, solved: Cells, count: number, random: () => number = Math.random): Cells {
  const blanks = [...givens.keys()].filter((cell) => !givens[cell]);
  const chosen: number[] = [];
  while (chosen.length < count && blanks.length) {
    chosen.push(...blanks.splice(Math.floor(random() * blanks.length), 1));
  }
  return solved.map((digit, cell) => {
    if (!chosen.includes(cell)) return digit;
    const others = [...DIGITS].filter((other) => other !== digit);
    return others[Math.floor(random() * others.length)] ?? digit;
  });
}
