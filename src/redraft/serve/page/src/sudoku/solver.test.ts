import { expect, test } from "vitest";
import { compact, conflicts, EMPTY, parse } from "./board";
import { PUZZLES } from "./puzzles";
import { solution, spoiled } from "./solver";

test.each(PUZZLES)("$name has a solution, with its givens", ({ cells }) => {
  const givens = parse(cells);
  const solved = solution(givens);
  expect(solved).not.toBeNull();
  expect(conflicts(solved!)).toEqual([]);
  expect(solved!.every(Boolean)).toBe(true);
  givens.forEach((given, cell) => expect(given || solved![cell]).toBe(solved![cell]));
});

test("the well-known puzzle has its well-known solution", () => {
  expect(compact(solution(parse(PUZZLES[0].cells))!)).toBe(
    "534678912672195348198342567859761423426853791713924856961537284287419635345286179",
  );
});

test("a board that breaks a rule has none, and an empty one has some", () => {
  expect(solution(EMPTY.with(0, "5").with(1, "5"))).toBeNull();
  // Nothing can stand in the last cell of the first row.
  expect(solution(parse("12345678." + ".".repeat(8) + "9" + ".".repeat(63)))).toBeNull();
  expect(conflicts(solution(EMPTY)!)).toEqual([]);
});

test("as many digits are wrong as are asked for, and none of them is given", () => {
  const givens = parse(PUZZLES[0].cells);
  const solved = solution(givens)!;
  for (const count of [0, 1, 3, 5, 10]) {
    const grid = spoiled(givens, solved, count);
    const wrong = [...grid.keys()].filter((cell) => grid[cell] !== solved[cell]);
    expect(wrong).toHaveLength(count);
    expect(wrong.some((cell) => givens[cell])).toBe(false);
  }
  expect(spoiled(solved, solved, 3)).toEqual(solved);
});
