import { describe, expect, it } from "vitest";
import { reached } from "./keys";

const press = (key: string, held: { altKey?: boolean; ctrlKey?: boolean; metaKey?: boolean } = {}) => ({
  key,
  altKey: false,
  ctrlKey: false,
  metaKey: false,
  ...held,
});
const arrows = ["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Home", "End"].map((key) => press(key));

describe("a key in a grid", () => {
  // 0 1 2
  // 3 4 5
  // 6 7
  const from = (cell: number) => arrows.map((event) => reached(event, cell, 3, 8));

  it("leads to a neighbour and to the ends of the row", () => expect(from(4)).toEqual([5, 3, 7, 1, 3, 5]));

  it("stays within the grid, whose last row may be short", () => {
    expect(from(0)).toEqual([1, 0, 3, 0, 0, 2]);
    expect(from(5)).toEqual([5, 4, 5, 2, 3, 5]);
    expect(from(7)).toEqual([7, 6, 7, 4, 6, 7]);
  });

  it("leads with Ctrl to the ends of the grid", () =>
    expect(["Home", "End"].map((key) => reached(press(key, { ctrlKey: true }), 4, 3, 8))).toEqual([0, 7]));

  it("is left to the browser where it is none of the grid's", () => {
    expect(reached(press("ArrowLeft", { altKey: true }), 4, 3, 8)).toBeUndefined();
    expect(reached(press("ArrowRight", { ctrlKey: true }), 4, 3, 8)).toBeUndefined();
    expect(reached(press("ArrowLeft", { metaKey: true }), 4, 3, 8)).toBeUndefined();
    expect(reached(press("a"), 4, 3, 8)).toBeUndefined();
  });
});
