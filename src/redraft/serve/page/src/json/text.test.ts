import { describe, expect, it } from "vitest";
import { indented, schemaOf, tokens } from "./text";

const pretty = (text: string) =>
  indented(tokens(text))
    .map((token) => token.text)
    .join("");
const fault = (text: string) => {
  try {
    tokens(text);
  } catch (error) {
    return (error as Error).message;
  }
  return "no fault";
};

describe("indented JSON", () => {
  it("looks as JSON.stringify writes it", () => {
    for (const value of [{}, [], 1, "a", { a: [1, { b: null }, [], {}], c: { d: "x,:{}[]" } }, [[1], [2, 3]]]) {
      expect(pretty(JSON.stringify(value))).toBe(JSON.stringify(value, null, 2));
      expect(pretty(JSON.stringify(value, null, "\t"))).toBe(JSON.stringify(value, null, 2));
    }
  });

  it("keeps what JSON.parse would lose", () => {
    expect(pretty('{"a":1.0,"a":12345678901234567890,"b":"\\u0041"}')).toBe(
      '{\n  "a": 1.0,\n  "a": 12345678901234567890,\n  "b": "\\u0041"\n}',
    );
  });

  it("tells keys from strings", () => {
    expect(tokens('{"a":"b"}').map((token) => token.kind)).toEqual([
      "punctuation",
      "key",
      "punctuation",
      "string",
      "punctuation",
    ]);
  });
});

describe("faults", () => {
  it.each([
    ["", "line 1, column 1: there is no JSON here"],
    ['{"a" 1}', "line 1, column 6: expected a colon after the key, found 1"],
    ['{"a": 1\n "b": 2}', 'line 2, column 2: expected a comma or }, found "'],
    ['{"a": 1,\r\n}', "line 2, column 1: a comma stands before }; take it away"],
    ["{a: 1}", "line 1, column 2: expected a key in double quotes, found a"],
    ["[1, 2", "line 1, column 6: expected a comma or ], found the end"],
    ['["a', "line 1, column 4: the string has no closing quote"],
    ['["\\x"]', "line 1, column 3: \\x is not an escape of JSON"],
    ['"a" b', "line 1, column 5: the JSON is complete, and then comes b"],
    ['{"a": undefined}', "line 1, column 7: expected a value after the colon, found undefined"],
    ["{'a': 1}", "line 1, column 2: expected a key in double quotes, found '"],
  ])("%j", (text, words) => expect(fault(text)).toBe(words));

  it("are found where JSON.parse finds one, and nowhere else", () => {
    const pieces = ["{", "}", "[", "]", ",", ":", '"a"', '"\\n"', "1", "-0.5e3", "01", "true", "nul", " "];
    let seed = 7;
    for (let round = 0; round < 5000; round++) {
      let text = "";
      for (let length = 0; length < 1 + (round % 7); length++) {
        seed = (seed * 1103515245 + 12345) % 2147483648;
        text += pieces[Math.floor((seed / 2147483648) * pieces.length)];
      }
      let valid = true;
      try {
        JSON.parse(text);
      } catch {
        valid = false;
      }
      expect(fault(text) === "no fault", text).toBe(valid);
    }
  });
});

describe("schemaOf", () => {
  it("takes objects and booleans", () => expect([schemaOf("{}"), schemaOf("true")]).toEqual([{}, true]));
  it.each([
    ["[]", "this is a list"],
    ["null", "this is null"],
    ["7", "this is a number"],
  ])("refuses %s", (text, words) => expect(() => schemaOf(text)).toThrow(words));
});
