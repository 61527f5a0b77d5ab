/** The fields that are read from a snippet: the schema that they make, and what came of each of them. */

import type { Extracted } from "../api/contract";

export const KINDS = {
  text: "text",
  whole: "whole number",
  number: "number",
  yes: "yes or no",
  date: "date",
  choice: "one of",
} as const;
export type Kind = keyof typeof KINDS;

export interface Field {
  name: string;
  kind: Kind;
  /** Of a choice: its options, with commas between them. */
  options: string;
  /** What the model is told about it. */
  about: string;
}

export const optionsOf = (field: Field): string[] =>
  field.options
    .split(",")
    .map((option) => option.trim())
    .filter(Boolean);

/** What is wrong with the fields, in words; empty where nothing is. */
export function faultOf(fields: readonly Field[]): string {
  const names = fields.map(({ name }) => name.trim());
  if (names.includes("")) return "Every field needs a name.";
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice) return `Two fields are called ${twice}.`;
  const lonely = fields.find((field) => field.kind === "choice" && optionsOf(field).length < 2);
  return lonely ? `${lonely.name} needs two options or more, with commas between them.` : "";
}

const TYPES = { text: "string", date: "string", whole: "integer", number: "number", yes: "boolean" } as const;

function schemaOfField(field: Field): Record<string, unknown> {
  const about = field.about.trim() ? { description: field.about.trim() } : {};
  if (field.kind === "choice") return { enum: [...optionsOf(field), null], ...about };
  const format = field.kind === "date" ? { format: "date" } : {};
  return { type: [TYPES[field.kind], "null"], ...format, ...about };
}

/** The schema of the fields; each of them is told, and null where the snippet does not say it. */
export const schemaFor = (fields: readonly Field[]): Record<string, unknown> => ({
  type: "object",
  properties: Object.fromEntries(fields.map((field) => [field.name.trim(), schemaOfField(field)])),
  required: fields.map((field) => field.name.trim()),
  additionalProperties: false,
});

export interface Row {
  pointer: string;
  /** The pointer as it is read: names, and numbers from 1. */
  name: string;
  /** Null where the snippet says nothing. */
  value: string | null;
  confidence: number | null;
  place: [number, number] | null;
}

const escaped = (key: string): string => key.replaceAll("~", "~0").replaceAll("/", "~1");

/** Every value that was read, in order, and every field of the schema that is absent. */
export function rowsOf(result: Extracted, schema: unknown): Row[] {
  const rows: Row[] = [];
  const visit = (value: unknown, schema: unknown, path: readonly (string | number)[]): void => {
    const pointer = path.map((key) => `/${escaped(String(key))}`).join("");
    const properties = record(record(schema)?.properties);
    if (Array.isArray(value) && value.length) {
      value.forEach((item, index) => visit(item, record(schema)?.items, [...path, index]));
    } else if (record(value) && (properties || Object.keys(record(value) ?? {}).length)) {
      const object = record(value) ?? {};
      const keys = [...Object.keys(properties ?? {}), ...Object.keys(object)];
      for (const key of new Set(keys)) visit(object[key], properties?.[key], [...path, key]);
    } else {
      const absent = value === undefined || value === null || (Array.isArray(value) && !value.length);
      rows.push({
        pointer,
        name: path.map((key) => (typeof key === "number" ? `${key + 1}` : key)).join(" › ") || "the whole",
        value: absent ? null : typeof value === "string" ? value : JSON.stringify(value),
        confidence: result.confidence[pointer] ?? null,
        place: absent ? null : (result.places[pointer] ?? null),
      });
    }
  };
  visit(result.value, schema, []);
  return rows;
}

function record(value: unknown): Record<string, unknown> | null {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : null;
}

export interface Piece {
  text: string;
  /** The values that stand there, by their numbers among the rows. */
  rows: number[];
}

/** The snippet in pieces: what no value is, and what one or several are. Places count characters. */
export function piecesOf(snippet: string, rows: readonly Row[]): Piece[] {
  const characters = [...snippet];
  const borders = new Set([0, characters.length, ...rows.flatMap(({ place }) => place ?? [])]);
  const sorted = [...borders].filter((at) => at <= characters.length).sort((one, other) => one - other);
  return sorted.slice(0, -1).map((start, index) => ({
    text: characters.slice(start, sorted[index + 1]).join(""),
    rows: [...rows.keys()].filter((row) => {
      const place = rows[row]?.place;
      return !!place && place[0] <= start && start < place[1];
    }),
  }));
}
