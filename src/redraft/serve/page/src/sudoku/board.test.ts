import { describe, expect, it } from "vitest";
import { EMPTY, canvasPosition, compact, conflicts, holding, message, parse, verdict } from "./board";

const PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79";
const SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179";

describe("a board", () => {
  it("is read from one line, nine lines, zeros and drawn grids", () => {
    const cells = parse(PUZZLE);
    expect(compact(cells)).toBe(PUZZLE);
    expect(parse(message(cells))).toEqual(cells);
    expect(parse(PUZZLE.replaceAll(".", "0"))).toEqual(cells);
    expect(parse(message(cells).replace(/(...)(...)(...)/g, "| $1 | $2 | $3 |\n+---+---+---+"))).toEqual(cells);
  });

  it("says what is wrong with a text", () => {
    expect(() => parse("12")).toThrow("A Sudoku has 81 cells; this text has 2.");
    expect(() => parse(`x${PUZZLE}`)).toThrow("found “x”");
  });

  it("is written as the model reads it", () => {
    expect(message(parse(PUZZLE)).split("\n")[1]).toBe("6..195...");
    expect([0, 8, 9, 80].map(canvasPosition)).toEqual([0, 8, 10, 88]);
  });

  it("becomes an expression that its solution matches, and a changed given does not", () => {
    const pattern = new RegExp(`^${holding(parse(PUZZLE))}$`);
    const solution = message(parse(SOLUTION));
    expect(pattern.test(solution)).toBe(true);
    expect(pattern.test(solution.replace("5", "1"))).toBe(false);
    expect(pattern.test(solution.replace("4", "1"))).toBe(true);
  });
});

describe("the rules", () => {
  it("find nothing in a solution", () => expect(conflicts(parse(SOLUTION))).toEqual([]));

  it("find a digit that stands twice in a row, column and box", () => {
    const cells = EMPTY.with(0, "5").with(1, "5").with(9, "5");
    expect(conflicts(cells).map((conflict) => conflict.words)).toEqual([
      "5 stands twice in row 1",
      "5 stands twice in column 1",
      "5 stands 3 times in box 1",
    ]);
  });

  it("judge an answer", () => {
    const givens = parse(PUZZLE);
    expect(verdict(givens, parse(SOLUTION)).solved).toBe(true);
    const wrong = verdict(givens, parse(SOLUTION).with(0, "3"));
    expect(wrong.words).toBe("Not solved: 1 given was changed, 3 rules are broken.");
    expect(wrong.changed).toEqual([0]);
    expect(verdict(EMPTY, parse(SOLUTION).with(0, "")).words).toBe("Not solved: 1 of 81 cells hold no digit.");
  });
});
