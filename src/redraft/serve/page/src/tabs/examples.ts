import type { Field } from "../extract/fields";
import type { Tab } from "../place.svelte";

/** What the forms hold at first: of each model that ships what it answers rightly, and general examples for others. */

export const PUZZLE =
  "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";

export interface Examples {
  /** What stands under the heading of a tab: what this model is not to be asked for there. */
  notes: { readonly [tab in Tab]?: string };
  /** Of a message to begin with: its text, and what the button says that fetches it. */
  chat: { message: string; button: string } | null;
  extract: { snippet: string; fields: Field[]; verbatim: boolean };
  schema: { schema: string; prompt: string };
  fill: { instruction: string; prefix: string; suffix: string };
  decide: { prompt: string; frame: string; questions: { name: string; options: string[] }[] };
}

const pretty = (value: unknown): string => JSON.stringify(value, null, 2);

const SUDOKU: Examples = {
  notes: {
    chat: "This model reads Sudoku puzzles and nothing else.",
    extract: "This model reads Sudoku puzzles and nothing else; serve a text model to read texts.",
  },
  chat: { message: PUZZLE, button: "Use a puzzle" },
  extract: {
    snippet: PUZZLE,
    fields: [{ name: "first row", kind: "whole", options: "", about: "" }],
    verbatim: false,
  },
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

const MAIL =
  "Dear team, my name is Ines Moreau and I live in Lyon. Order B-20714 arrived today with a cracked lid. " +
  "Please send me back the 38.50 euros.";
const REMINDER =
  "The dentist has moved your visit: please come to Hill Street 12 on Thursday at 14:20. Bring your card. " +
  "Practice of Dr Amara Osei";

const field = (name: string, kind: Field["kind"]): Field => ({ name, kind, options: "", about: "" });

/** Each was asked with 20 seeds and answered rightly with 17 of them or more, decision and form with all. */
const POCKET: Examples = {
  notes: {
    extract: "This model reads short English texts, and gets little more than half of the fields of a new one right.",
    decide: "This model chooses little better than chance; the example is one that it gets right.",
    fill: "This model fills in the blanks of a form about a text, which the instruction holds; it writes no prose.",
    schema: "This model copies from a text in the prompt, best where the schema says how a value is written.",
    chat: "This model knows next to nothing by itself: send it a short English text and a question about it.",
  },
  chat: { message: `${MAIL}\n\nWhere do I live?`, button: "Use an example" },
  extract: {
    snippet: MAIL,
    fields: [
      field("customer", "text"),
      field("order_number", "text"),
      field("amount", "number"),
      field("phone", "text"),
      field("city", "text"),
    ],
    verbatim: true,
  },
  schema: {
    schema: pretty({
      type: "object",
      properties: { order_number: { type: "string", pattern: "^[A-Z]-[0-9]{5}$" } },
      required: ["order_number"],
      additionalProperties: false,
    }),
    prompt: `${MAIL}\n\nWhat is the order number?`,
  },
  fill: {
    instruction: `${REMINDER}\n\nFill in this form from the text:`,
    prefix: "* day: Thursday\n* time:",
    suffix: "\n* street: Hill Street 12",
  },
  decide: {
    prompt: "What a lovely evening! The soup was wonderful, and the waiter was friendly and quick. We will come back.",
    frame: "",
    questions: [
      { name: "sentiment", options: ["negative", "positive"] },
      { name: "topic", options: ["a restaurant", "a train", "a football match"] },
    ],
  },
};

const GENERAL: Examples = {
  notes: {},
  chat: null,
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
    verbatim: false,
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

const SHIPPED: ReadonlyMap<string, Examples> = new Map([
  ["pocket", POCKET],
  ["sudoku", SUDOKU],
]);

export const examplesFor = (model: string): Examples => SHIPPED.get(model) ?? GENERAL;
