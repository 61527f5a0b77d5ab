import type { Field } from "../extract/fields";

/** What the forms hold at first. The bundled model reads puzzles and nothing else, and gets its own. */

export const PUZZLE =
  "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";

export interface Examples {
  chat: string;
  extract: { snippet: string; fields: Field[] };
  schema: { schema: string; prompt: string };
  fill: { instruction: string; prefix: string; suffix: string };
  decide: { prompt: string; frame: string; questions: { name: string; options: string[] }[] };
}

const pretty = (value: unknown): string => JSON.stringify(value, null, 2);

const SUDOKU: Examples = {
  chat: PUZZLE,
  extract: { snippet: PUZZLE, fields: [{ name: "first row", kind: "whole", options: "", about: "" }] },
  schema: {
    schema: pretty({ type: "integer", minimum: 100000000, maximum: 999999999 }),
    prompt: PUZZLE,
  },
  fill: {
    instruction: PUZZLE,
    prefix: "534678912\n",
    suffix: "\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179",
  },
  decide: {
    prompt: PUZZLE,
    frame: "53{third}{fourth}7",
    questions: [
      { name: "third", options: ["1", "2", "4"] },
      { name: "fourth", options: ["2", "6"] },
    ],
  },
};

const GENERAL: Examples = {
  chat: "",
  extract: {
    snippet:
      "Hello, this is Nadia Brandt from Ostwerk Tools. Our order 48213 came on Tuesday, but two of the six lamps were " +
      "cracked. Could you send new ones before 14 March? You can reach me at nadia@ostwerk.example.",
    fields: [
      { name: "sender", kind: "text", options: "", about: "who writes" },
      { name: "order", kind: "text", options: "", about: "the number of the order" },
      { name: "damaged", kind: "whole", options: "", about: "how many things are broken" },
      { name: "deadline", kind: "text", options: "", about: "until when something is wanted" },
      { name: "phone", kind: "text", options: "", about: "a telephone number" },
      { name: "wish", kind: "choice", options: "replacement, refund, repair, nothing", about: "what is asked for" },
    ],
  },
  schema: {
    schema: pretty({
      type: "object",
      properties: {
        name: { type: "string" },
        born: { type: "integer", minimum: 1000, maximum: 2030 },
        fields: { type: "array", items: { type: "string" }, minItems: 1, maxItems: 4 },
      },
      required: ["name", "born", "fields"],
      additionalProperties: false,
    }),
    prompt: "Who was Ada Lovelace?",
  },
  fill: {
    instruction: "",
    prefix: "def mean(values):\n    ",
    suffix: "\n    return total / len(values)\n",
  },
  decide: {
    prompt: "“The parcel came a week late, and the lid was broken, but they replaced it at once.”",
    frame: "",
    questions: [
      { name: "mood", options: ["pleased", "mixed", "angry"] },
      { name: "topic", options: ["delivery", "price", "quality"] },
    ],
  },
};

export const examplesFor = (model: string): Examples => (model === "sudoku" ? SUDOKU : GENERAL);
