/** A wrong value planted in what was read, for the model to correct. */

import type { Row } from "./fields";

export interface Planted {
  /** The whole value, with one part of it wrong. */
  value: unknown;
  pointer: string;
  name: string;
  /** What stood there, and what stands there now, in words. */
  was: string;
  now: string;
}

type Schema = Record<string, unknown>;

const object = (value: unknown): Schema | null =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Schema) : null;

const keysOf = (pointer: string): string[] =>
  pointer
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));

const pick = <T>(of: readonly T[], random: () => number): T | undefined => of[Math.floor(random() * of.length)];

/** Plant another value of the same kind in the place of one that was read; null where none can be thought of. */
export function planted(
  value: unknown,
  schema: unknown,
  rows: readonly Row[],
  snippet: string,
  random: () => number = Math.random,
): Planted | null {
  const ways = rows.flatMap((row) => {
    const keys = keysOf(row.pointer);
    const was = keys.reduce<unknown>(
      (part, key) => object(part)?.[key] ?? (part as unknown[] | null)?.[Number(key)],
      value,
    );
    const now = row.value === null ? undefined : wrong(was, schemaAt(schema, keys), snippet, random);
    return now === undefined || !keys.length ? [] : [{ row, keys, now }];
  });
  const way = pick(ways, random);
  if (!way) return null;
  const { row, keys, now } = way;
  return {
    value: replaced(value, keys, now),
    pointer: row.pointer,
    name: row.name,
    was: row.value ?? "",
    now: typeof now === "string" ? now : JSON.stringify(now),
  };
}

function schemaAt(schema: unknown, keys: readonly string[]): Schema {
  const found = keys.reduce<unknown>((part, key) => {
    const own = object(part);
    return object(own?.properties)?.[key] ?? own?.items;
  }, schema);
  return object(found) ?? {};
}

function replaced(value: unknown, [key, ...rest]: readonly string[], now: unknown): unknown {
  if (key === undefined) return now;
  if (Array.isArray(value)) return value.map((item, at) => (at === Number(key) ? replaced(item, rest, now) : item));
  return { ...object(value), [key]: replaced(object(value)?.[key], rest, now) };
}

function wrong(was: unknown, schema: Schema, snippet: string, random: () => number): unknown {
  if ("const" in schema || "pattern" in schema) return undefined;
  if (Array.isArray(schema.enum))
    return pick(
      schema.enum.filter((one) => one !== was && one !== null),
      random,
    );
  if (typeof was === "boolean") return !was;
  if (typeof was === "number") {
    const least = typeof schema.minimum === "number" ? schema.minimum : -Infinity;
    const most = typeof schema.maximum === "number" ? schema.maximum : Infinity;
    return pick(
      [was + 1, was - 1, was + 10].filter((one) => least <= one && one <= most),
      random,
    );
  }
  if (typeof was !== "string") return undefined;
  if (schema.format === "date") return /^\d{4}-\d\d-\d\d$/.test(was) ? aWeekLater(was) : undefined;
  if ("format" in schema) return undefined;
  // Another word of the snippet is what a reading gets wrong.
  const words = (snippet.match(/[\p{L}\p{N}]{2,16}/gu) ?? []).filter((word) => !was.includes(word));
  return pick([...new Set(words)], random);
}

function aWeekLater(day: string): string | undefined {
  const time = Date.parse(`${day}T00:00:00Z`) + 7 * 24 * 3600 * 1000;
  return Number.isNaN(time) ? undefined : new Date(time).toISOString().slice(0, 10);
}
