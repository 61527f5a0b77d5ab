/** The rules of Sudoku, and how a board is written for the model. A cell is "1" to "9", or "" where it is blank. */

export type Cells = readonly string[];

export const SIZE = 9;
export const EMPTY: Cells = Array.from({ length: SIZE * SIZE }, () => "");

/** Where a cell stands on the model's canvas: nine digits and a line end per row. */
export const canvasPosition = (cell: number): number => cell + Math.floor(cell / SIZE);

export const nameOf = (cell: number): string => `row ${Math.floor(cell / SIZE) + 1}, column ${(cell % SIZE) + 1}`;

/** Read a board from text; drawn grids and white space are skipped. Throws an Error in words. */
export function parse(text: string): Cells {
  const marks = [...text].filter((mark) => !/[\s|+-]/.test(mark));
  const strange = marks.find((mark) => !/[0-9._*]/.test(mark));
  if (strange !== undefined) {
    throw new Error(`A Sudoku is written with 1 to 9, and . or 0 for blanks; found “${strange}”.`);
  }
  if (marks.length !== SIZE * SIZE) throw new Error(`A Sudoku has 81 cells; this text has ${marks.length}.`);
  return marks.map((mark) => (/[1-9]/.test(mark) ? mark : ""));
}

/** One character a cell, "." for blanks. */
export const compact = (cells: Cells): string => cells.map((cell) => cell || ".").join("");

const lines = (cells: Cells, blank: string): string[] =>
  Array.from({ length: SIZE }, (_, row) =>
    cells
      .slice(row * SIZE, (row + 1) * SIZE)
      .map((cell) => cell || blank)
      .join(""),
  );

/** The board as the user's message. */
export const message = (cells: Cells): string => lines(cells, ".").join("\n");

/** A regular expression that only finished boards with these givens match. */
export const holding = (cells: Cells): string => lines(cells, "[1-9]").join("\\n");

export interface Conflict {
  cells: number[];
  words: string;
}

const UNITS: { name: string; cells: number[] }[] = [
  ...Array.from({ length: SIZE }, (_, row) => ({
    name: `row ${row + 1}`,
    cells: Array.from({ length: SIZE }, (_, i) => row * SIZE + i),
  })),
  ...Array.from({ length: SIZE }, (_, column) => ({
    name: `column ${column + 1}`,
    cells: Array.from({ length: SIZE }, (_, i) => i * SIZE + column),
  })),
  ...Array.from({ length: SIZE }, (_, box) => ({
    name: `box ${box + 1}`,
    cells: Array.from(
      { length: SIZE },
      (_, i) => (Math.floor(box / 3) * 3 + Math.floor(i / 3)) * SIZE + (box % 3) * 3 + (i % 3),
    ),
  })),
];

/** Every digit that stands twice or more in a row, column or box. */
export function conflicts(cells: Cells): Conflict[] {
  return UNITS.flatMap(({ name, cells: unit }) =>
    "123456789".split("").flatMap((digit) => {
      const holders = unit.filter((cell) => cells[cell] === digit);
      return holders.length < 2
        ? []
        : [
            {
              cells: holders,
              words: `${digit} stands ${holders.length === 2 ? "twice" : `${holders.length} times`} in ${name}`,
            },
          ];
    }),
  );
}

export interface Verdict {
  solved: boolean;
  words: string;
  conflicts: Conflict[];
  /** Givens that the answer does not have. */
  changed: number[];
}

/** What an answer to a puzzle is worth. */
export function verdict(givens: Cells, answer: Cells): Verdict {
  const found = conflicts(answer);
  const changed = [...givens.keys()].filter((cell) => givens[cell] && givens[cell] !== answer[cell]);
  const blank = answer.filter((cell) => !cell).length;
  const faults = [
    ...(blank ? [`${blank} of 81 cells hold no digit`] : []),
    ...(changed.length ? [`${changed.length === 1 ? "1 given was" : `${changed.length} givens were`} changed`] : []),
    ...(found.length ? [found.length === 1 ? "1 rule is broken" : `${found.length} rules are broken`] : []),
  ];
  const solved = faults.length === 0;
  const words = solved
    ? "Solved. Every row, column and box holds 1 to 9, and all givens are kept."
    : `Not solved: ${faults.join(", ")}.`;
  return { solved, words, conflicts: found, changed };
}
