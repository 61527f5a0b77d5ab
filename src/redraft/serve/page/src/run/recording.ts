/** Questions about the recorded steps of an answer. Steps of several canvases stand in one list, in order. */

import type { Step } from "../api/contract";

/** How settled a position is, from 0 to 1: one over the number of tokens it is as good as undecided between. */
export const settledness = (entropy: number): number => Math.exp(-Math.max(0, entropy));

/** A canvas ends with the step that converged, or with the last one allowed. */
export const isLast = (step: Step): boolean => step.finished || step.step === step.of;

/** The index of the step before, on the same canvas; -1 if there is none. */
function before(steps: readonly Step[], index: number): number {
  return steps[index - 1]?.canvas === steps[index]?.canvas ? index - 1 : -1;
}

export type Origin = "kept" | "noise" | "given";

/** Where the token that the model saw comes from: kept from the step before, fresh noise, or there from the start. */
export function origin(steps: readonly Step[], index: number, position: number): Origin {
  const earlier = before(steps, index);
  if (earlier >= 0) return steps[earlier]?.accepted[position] ? "kept" : "noise";
  const step = steps[index];
  // What a constraint leaves no choice about stands on the first canvas already.
  const sure = step?.entropy[position] === 0 && step.tokens[position] === step.argmax[position];
  return sure ? "given" : "noise";
}

/** The index of the step since which a position has been accepted without a break; null if it is not accepted. */
export function acceptedSince(steps: readonly Step[], index: number, position: number): number | null {
  if (!steps[index]?.accepted[position]) return null;
  let since = index;
  for (let earlier = before(steps, since); earlier >= 0; earlier = before(steps, since)) {
    if (!steps[earlier]?.accepted[position]) break;
    since = earlier;
  }
  return since;
}

/** The indices of the steps of the same canvas up to and with this one. */
export function ofCanvas(steps: readonly Step[], index: number): number[] {
  const canvas = steps[index]?.canvas;
  return [...steps.keys()].filter((other) => steps[other]?.canvas === canvas);
}

/** The position of the first end token; the canvas's length if there is none. */
export function endOf(step: Step, ends: readonly number[]): number {
  const end = step.argmax.findIndex((token) => ends.includes(token));
  return end < 0 ? step.argmax.length : end;
}

/** The bytes that a token stands for, if it spells no whole characters. */
function bytesOf(piece: string): number[] | null {
  if (!/^(<0x[0-9A-F]{2}>)+$/.test(piece)) return null;
  return [...piece.matchAll(/[0-9A-F]{2}/g)].map(([digits]) => Number.parseInt(digits, 16));
}

/** The text that tokens make together: several bytes in a row are one character. */
export function joined(pieces: readonly string[]): string {
  const encoder = new TextEncoder();
  const bytes = pieces.flatMap((piece) => bytesOf(piece) ?? [...encoder.encode(piece)]);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

/** A token as one cell shows it. */
export function visible(piece: string): string {
  if (piece === "") return "∅";
  if (bytesOf(piece)) return piece.slice(1, -1).replaceAll("><", " ");
  return piece
    .replaceAll("\r", "␍")
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

/** A token as it is read out. */
export function spoken(piece: string): string {
  const names: Record<string, string> = { "": "nothing", "\n": "line end", " ": "space", "\t": "tab" };
  const bytes = bytesOf(piece);
  if (bytes) return bytes.map((byte) => `byte ${byte.toString(16)}`).join(", ");
  return names[piece] ?? piece.replaceAll("\n", " line end ").trim();
}

/** How many columns a canvas is drawn with: a divisor of its length near ten, so that no row is ragged. */
export function columnsFor(length: number): number {
  if (length <= 12) return Math.max(1, length);
  const divisors = [10, 8, 9, 12, 11, 16, 7, 14, 15].filter((columns) => length % columns === 0);
  return divisors[0] ?? 10;
}
