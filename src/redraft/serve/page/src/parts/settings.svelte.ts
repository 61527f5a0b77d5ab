/** The parameters of a request that the user may set. An empty field leaves the checkpoint's own value. */

import type { Parameters } from "../api/contract";

export const settings = $state<{ [name in keyof Parameters]?: Parameters[name] | null } & { raw: boolean }>({
  raw: false,
});

export type Setting = keyof Parameters | "raw";

/** Those of the named settings that are set, as they are sent. */
export function chosen(names: readonly Setting[]): Parameters {
  const set: Record<string, number | boolean> = {};
  for (const name of names) {
    const value = settings[name];
    if (name !== "raw" && value !== null && value !== undefined && value !== false) set[name] = value;
  }
  return set;
}
