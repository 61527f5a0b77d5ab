import { describe, expect, it } from "vitest";
import type { Extracted } from "../api/contract";
import { rowsOf } from "./fields";
import { planted } from "./plant";

const SNIPPET = "Ada paid 12 on 2026-03-04, Bo nothing.";
const read = { who: "Ada", "a/b": { paid: 12, late: false }, on: ["2026-03-04"], kind: "new", none: null, fix: "x" };
const schema = {
  properties: {
    who: { type: ["string", "null"] },
    "a/b": { properties: { paid: { type: "integer", maximum: 12, minimum: 11 }, late: { type: "boolean" } } },
    on: { items: { type: "string", format: "date" } },
    kind: { enum: ["new", "old", null] },
    none: { type: ["string", "null"] },
    fix: { const: "x" },
  },
};
const rows = rowsOf({ value: read, confidence: {}, places: {} } as unknown as Extracted, schema);

describe("a planted value", () => {
  it("is another one of the same kind, in the place of one that was read", () => {
    const found = Array.from({ length: 300 }, () => planted(read, schema, rows, SNIPPET));
    const ways = new Map(found.map((one) => [one?.pointer, one]));
    expect([...ways.keys()].sort()).toEqual(["/a~1b/late", "/a~1b/paid", "/kind", "/on/0", "/who"]);
    expect(ways.get("/a~1b/paid")).toMatchObject({ was: "12", now: "11", name: "a/b › paid" });
    expect(ways.get("/a~1b/paid")?.value).toEqual({ ...read, "a/b": { paid: 11, late: false } });
    expect(ways.get("/on/0")?.value).toEqual({ ...read, on: ["2026-03-11"] });
    expect(ways.get("/kind")?.now).toBe("old");
    expect(SNIPPET).toContain(ways.get("/who")?.now);
    expect(ways.get("/who")?.now).not.toBe("Ada");
  });

  it("is none where nothing else may stand", () => {
    const only = rowsOf({ value: { fix: "x" }, confidence: {}, places: {} } as unknown as Extracted, schema);
    expect(planted({ fix: "x" }, schema, only.slice(-1), SNIPPET)).toBeNull();
    expect(planted(read, schema, [], SNIPPET)).toBeNull();
  });
});
