import { describe, expect, it } from "vitest";
import type { Step } from "../api/contract";
import {
  acceptedSince,
  columnsFor,
  endOf,
  isLast,
  joined,
  ofCanvas,
  origin,
  settledness,
  spoken,
  visible,
} from "./recording";

const step = (canvas: number, number: number, accepted: number[], more: Partial<Step> = {}): Step => ({
  canvas,
  step: number,
  of: 4,
  temperature: 1,
  tokens: accepted.map(() => 7),
  argmax: accepted.map(() => 5),
  entropy: accepted.map(() => 0.5),
  accepted,
  finished: false,
  changed: [],
  pieces: {},
  ...more,
});

const steps = [
  step(0, 1, [1, 0, 1, 0]),
  step(0, 2, [1, 1, 0, 0]),
  step(0, 3, [1, 1, 1, 0], { finished: true }),
  step(1, 1, [1, 0, 0, 0], { entropy: [0, 0, 1, 1], tokens: [5, 7, 5, 7] }),
];

describe("a recording", () => {
  it("knows since when a position has been accepted without a break", () => {
    expect([0, 1, 2, 3].map((position) => acceptedSince(steps, 2, position))).toEqual([0, 1, 2, null]);
  });

  it("does not look across the border of a canvas", () => expect(acceptedSince(steps, 3, 0)).toBe(3));

  it("tells kept tokens, noise and what was there from the start", () => {
    expect([0, 1, 2, 3].map((position) => origin(steps, 1, position))).toEqual(["kept", "noise", "kept", "noise"]);
    expect([0, 1, 2, 3].map((position) => origin(steps, 3, position))).toEqual(["given", "noise", "noise", "noise"]);
  });

  it("finds the steps of a canvas and its last one", () => {
    expect(ofCanvas(steps, 1)).toEqual([0, 1, 2]);
    expect(steps.map(isLast)).toEqual([false, false, true, false]);
    expect(isLast(step(0, 4, []))).toBe(true);
  });

  it("ends at the first end token", () => {
    expect(endOf(step(0, 1, [0, 0, 0], { argmax: [4, 1, 1] }), [1, 2])).toBe(1);
    expect(endOf(step(0, 1, [0, 0, 0]), [])).toBe(3);
  });
});

describe("drawing", () => {
  it("calls a position settled by the number of tokens it is undecided between", () => {
    expect(settledness(0)).toBe(1);
    expect(settledness(Math.log(4))).toBeCloseTo(0.25);
    expect(settledness(-1e-9)).toBe(1);
  });

  it("shows and says tokens that cannot be seen", () => {
    expect(["\n", " the", "", "\t", "a b "].map(visible)).toEqual(["↵", "·the", "∅", "⇥", "a b·"]);
    expect(["\n", " the", "", " "].map(spoken)).toEqual(["line end", "the", "nothing", "space"]);
  });

  it("joins the bytes that spell a character", () => {
    expect(joined(["a ", "<0xE6>", "<0x97>", "<0xA5>", "é", "<0x41>", "<eos>"])).toBe("a 日éA<eos>");
    expect(joined(["<0xE6>", "b"])).toBe("\uFFFDb");
    expect(joined(["<0xE6><0x97>", "<0xA5>"])).toBe("日");
    expect([visible("<0xE6>"), spoken("<0xE6>")]).toEqual(["0xE6", "byte e6"]);
    expect([visible("<0xE6><0x97>"), spoken("<0xE6><0x97>")]).toEqual(["0xE6 0x97", "byte e6, byte 97"]);
  });

  it("draws rows of nine digits and a line end, and no ragged rows", () => {
    expect([90, 256, 64, 9, 1, 100, 97].map(columnsFor)).toEqual([10, 8, 8, 9, 1, 10, 10]);
  });
});
