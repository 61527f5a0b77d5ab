import { describe, expect, it } from "vitest";
import { count, fixed, percent, seconds } from "./words";

describe("words", () => {
  it("counts", () => expect([count(1, "step"), count(1200, "step")]).toEqual(["1 step", "1,200 steps"]));
  it("writes seconds with the digits that mean something", () =>
    expect([0.0312, 0.95, 4.12, 250].map(seconds)).toEqual(["0.031 s", "0.95 s", "4.1 s", "250 s"]));
  it("has no negative zero", () => expect(fixed(-1e-9, 2)).toBe("0.00"));
  it("calls nothing certain or impossible that is not", () =>
    expect([0, 1e-6, 0.1234, 0.99999, 1].map(percent)).toEqual([
      "0.0\u00A0%",
      "under 0.1\u00A0%",
      "12.3\u00A0%",
      "over 99.9\u00A0%",
      "100.0\u00A0%",
    ]));
});
