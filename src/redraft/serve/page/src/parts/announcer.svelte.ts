/** What screen readers are told, politely, by the one live region of the page. */

import { untrack } from "svelte";

export const announcer = $state({ text: "" });

export function announce(text: string): void {
  // The same words twice are announced twice: a no-break space at the end makes them different.
  const before = untrack(() => announcer.text);
  announcer.text = before === text ? `${text}\u00A0` : text;
}
