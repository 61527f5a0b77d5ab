/**
 * JSON as text: where it is wrong, in words, and the same text indented. JSON.parse and JSON.stringify would lose
 * what an answer says exactly: 1.0, 12345678901234567890, "\u0041", a key that stands there twice.
 */

export type Kind = "key" | "string" | "number" | "literal" | "punctuation";

export interface Token {
  kind: Kind;
  text: string;
  /** How many brackets it stands in. */
  depth: number;
}

/** Where a text stops being JSON, and what was expected there. Lines and columns count from 1. */
export class JsonFault extends Error {
  constructor(
    readonly line: number,
    readonly column: number,
    readonly words: string,
  ) {
    super(`line ${line}, column ${column}: ${words}`);
  }
}

const SPACE = /[ \t\r\n]*/y;
const STRING = /"(?:[^"\\\u0000-\u001F]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const LITERAL = /true|false|null/y;

class Reader {
  readonly tokens: Token[] = [];
  #at = 0;
  #depth = 0;

  constructor(readonly text: string) {}

  document(): Token[] {
    this.#space();
    if (this.#at === this.text.length) throw this.#fault("there is no JSON here");
    this.#value("a value");
    this.#space();
    if (this.#at < this.text.length) throw this.#fault(`the JSON is complete, and then comes ${this.#found()}`);
    return this.tokens;
  }

  #value(expected: string): void {
    this.#space();
    const next = this.text[this.#at];
    if (next === "{") this.#members("}", () => this.#member());
    else if (next === "[") this.#members("]", () => this.#value("a value"));
    else if (next === '"') this.#string("string");
    else if (!this.#match(NUMBER, "number") && !this.#match(LITERAL, "literal")) {
      throw this.#fault(`expected ${expected}, found ${this.#found()}`);
    }
  }

  #members(close: string, member: () => void): void {
    this.#punctuation();
    this.#depth += 1;
    this.#space();
    if (this.text[this.#at] !== close) {
      for (;;) {
        member();
        this.#space();
        if (this.text[this.#at] !== ",") break;
        this.#punctuation();
        this.#space();
        if (this.text[this.#at] === close) throw this.#fault(`a comma stands before ${close}; take it away`);
      }
    }
    if (this.text[this.#at] !== close) throw this.#fault(`expected a comma or ${close}, found ${this.#found()}`);
    this.#depth -= 1;
    this.#punctuation();
  }

  #member(): void {
    this.#space();
    if (this.text[this.#at] !== '"') throw this.#fault(`expected a key in double quotes, found ${this.#found()}`);
    this.#string("key");
    this.#space();
    if (this.text[this.#at] !== ":") throw this.#fault(`expected a colon after the key, found ${this.#found()}`);
    this.#punctuation();
    this.#value("a value after the colon");
  }

  #string(kind: Kind): void {
    if (this.#match(STRING, kind)) return;
    const rest = /"(?:[^"\\\u0000-\u001F]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*/y;
    rest.lastIndex = this.#at;
    this.#at += rest.exec(this.text)?.[0].length ?? 0;
    const next = this.text[this.#at];
    if (next === undefined || next === "\n" || next === "\r") throw this.#fault("the string has no closing quote");
    throw this.#fault(
      next === "\\"
        ? `${this.text.slice(this.#at, this.#at + 2)} is not an escape of JSON`
        : "a control character stands in a string; write it as an escape",
    );
  }

  #punctuation(): void {
    this.tokens.push({ kind: "punctuation", text: this.text[this.#at] ?? "", depth: this.#depth });
    this.#at += 1;
  }

  #match(pattern: RegExp, kind: Kind): boolean {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text)?.[0];
    if (!found) return false;
    this.tokens.push({ kind, text: found, depth: this.#depth });
    this.#at += found.length;
    return true;
  }

  #space(): void {
    SPACE.lastIndex = this.#at;
    this.#at += SPACE.exec(this.text)?.[0].length ?? 0;
  }

  #found(): string {
    const rest = this.text.slice(this.#at);
    if (rest === "") return "the end";
    const word = /^[\w$.+-]{1,20}/.exec(rest)?.[0] ?? [...rest][0];
    return `${word}`;
  }

  #fault(words: string): JsonFault {
    const lines = this.text.slice(0, this.#at).split(/\r\n|\r|\n/);
    return new JsonFault(lines.length, (lines.at(-1)?.length ?? 0) + 1, words);
  }
}

/** The tokens of a JSON text; throws a JsonFault. */
export const tokens = (text: string): Token[] => new Reader(text).document();

/** The same tokens with the white space between them that indents; nothing else is touched. */
export function indented(read: readonly Token[]): Token[] {
  const spaced: Token[] = [];
  read.forEach((token, index) => {
    const before = read[index - 1]?.text;
    const opened = read[index - 1]?.kind === "punctuation" && (before === "{" || before === "[");
    const closes = token.kind === "punctuation" && (token.text === "}" || token.text === "]");
    const afterComma = read[index - 1]?.kind === "punctuation" && before === ",";
    let space = "";
    if ((opened && !closes) || (closes && !opened) || afterComma) space = `\n${"  ".repeat(token.depth)}`;
    else if (read[index - 1]?.kind === "punctuation" && before === ":") space = " ";
    spaced.push({ ...token, text: space + token.text });
  });
  return spaced;
}

declare global {
  interface JSON {
    /** A primitive that JSON.stringify writes as it stands; browsers before 2025 may lack it. */
    rawJSON?(text: string): unknown;
  }
}

/** What a JSON text holds, to be sent on: numbers keep all of their digits, where the browser can. */
function exactly(text: string): unknown {
  const raw = JSON.rawJSON;
  if (!raw) return JSON.parse(text);
  const keep = (_key: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === "number" && context?.source !== undefined ? raw(context.source) : value;
  return JSON.parse(text, keep);
}

/** The schema that a text holds, to be sent on. Throws a JsonFault, or an Error in words, if it holds none. */
export function schemaOf(text: string): unknown {
  tokens(text);
  const schema: unknown = JSON.parse(text);
  if (typeof schema === "boolean" || (typeof schema === "object" && schema !== null && !Array.isArray(schema))) {
    return exactly(text);
  }
  const found = Array.isArray(schema) ? "a list" : schema === null ? "null" : `a ${typeof schema}`;
  throw new Error(`a schema is an object, such as {"type": "string"}; this is ${found}`);
}
