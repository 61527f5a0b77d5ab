/** The parameters of a request that the user may set. An empty field leaves the checkpoint's own value. */

import type { Message, Parameters, Prompt } from "../api/contract";

export const settings = $state<{ [name in keyof Parameters]?: Parameters[name] | null } & { raw: boolean }>({
  raw: false,
});

export type Setting = keyof Parameters | "raw";

/** Those that every answer takes. */
export const SAMPLING = ["seed", "max_denoising_steps", "temperature", "entropy_bound"] as const;
/** Those of an answer in the model's own words. */
export const ALL = [...SAMPLING, "max_tokens", "thinking", "raw"] as const;

/** Those of the named settings that are set, as they are sent. */
export function chosen(names: readonly Setting[]): Parameters {
  const set: Record<string, number | boolean> = {};
  for (const name of names) {
    const value = settings[name];
    if (name !== "raw" && value !== null && value !== undefined && value !== false) set[name] = value;
  }
  return set;
}

/** What the user wrote as it is sent: the next message of a conversation, or raw text. */
export const asked = (content: string, before: readonly Message[] = []): Prompt =>
  settings.raw ? { prompt: content } : { messages: [...before, { role: "user", content }] };
