import { describe, expect, it } from "vitest";
import type { Extracted } from "../api/contract";
import { faultOf, piecesOf, rowsOf, schemaFor, type Field } from "./fields";

const field = (name: string, more: Partial<Field> = {}): Field => ({
  name,
  kind: "text",
  options: "",
  about: "",
  ...more,
});

const extracted = (value: unknown, more: Partial<Extracted> = {}): Extracted =>
  ({ value, confidence: {}, places: {}, layout: "slots", fallback: null, ...more }) as Extracted;

describe("the schema of fields", () => {
  it("has each of them, or null", () => {
    expect(
      schemaFor([
        field("who", { about: "the sender" }),
        field("day", { kind: "date" }),
        field("how many", { kind: "whole" }),
        field("mood", { kind: "choice", options: " glad, sad ,," }),
      ]),
    ).toEqual({
      type: "object",
      properties: {
        who: { type: ["string", "null"], description: "the sender" },
        day: { type: ["string", "null"], format: "date" },
        "how many": { type: ["integer", "null"] },
        mood: { enum: ["glad", "sad", null] },
      },
      required: ["who", "day", "how many", "mood"],
      additionalProperties: false,
    });
  });

  it("says what is wrong with them", () => {
    expect(faultOf([field("a"), field(" ")])).toBe("Every field needs a name.");
    expect(faultOf([field("a"), field("a ")])).toBe("Two fields are called a.");
    expect(faultOf([field("a", { kind: "choice", options: "one" })])).toContain("two options");
    expect(faultOf([field("a"), field("b")])).toBe("");
  });
});

describe("what was read", () => {
  const schema = schemaFor([field("who"), field("when"), field("a/b")]);

  it("has a row for each value, and for each that is absent", () => {
    const rows = rowsOf(
      extracted({ "a/b": 3, who: "Ada" }, { confidence: { "/who": 0.5, "/a~1b": 1 }, places: { "/who": [0, 3] } }),
      schema,
    );
    expect(rows.map(({ name, value, confidence, place }) => [name, value, confidence, place])).toEqual([
      ["who", "Ada", 0.5, [0, 3]],
      ["when", null, null, null],
      ["a/b", "3", 1, null],
    ]);
  });

  it("goes into arrays and objects", () => {
    const nested = {
      properties: { items: { type: "array", items: { properties: { name: {}, price: {} } } }, none: { type: "array" } },
    };
    const rows = rowsOf(extracted({ items: [{ name: "tea" }, { name: "jam", price: 2 }], none: [] }), nested);
    expect(rows.map(({ name, value }) => [name, value])).toEqual([
      ["items › 1 › name", "tea"],
      ["items › 1 › price", null],
      ["items › 2 › name", "jam"],
      ["items › 2 › price", "2"],
      ["none", null],
    ]);
  });

  it("is marked in the snippet, by characters and where values overlap", () => {
    const rows = rowsOf(
      extracted({ who: "Ada L", when: "Ada" }, { places: { "/who": [2, 7], "/when": [2, 5] } }),
      schema,
    );
    expect(piecesOf("😀 Ada L!", rows)).toEqual([
      { text: "😀 ", rows: [] },
      { text: "Ada", rows: [0, 1] },
      { text: " L", rows: [0] },
      { text: "!", rows: [] },
    ]);
    expect(piecesOf("as it is", [])).toEqual([{ text: "as it is", rows: [] }]);
    expect(piecesOf("", rows.slice(2))).toEqual([]);
  });
});
