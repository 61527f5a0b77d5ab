/** What screen readers are told, politely, by the one live region of the page. */

export const announcer = $state({ text: "" });

export function announce(text: string): void {
  // The same words twice are announced twice: a no-break space at the end makes them different.
  announcer.text = announcer.text === text ? `${text}\u00A0` : text;
}
