/** What keys do in more than one place. */

/** For a text area: Ctrl or Command with Enter sends its form. */
export function sendOnEnter(event: KeyboardEvent & { currentTarget: HTMLTextAreaElement }): void {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  event.currentTarget.form?.requestSubmit();
}

type Pressed = Pick<KeyboardEvent, "key" | "altKey" | "ctrlKey" | "metaKey">;

/**
 * Where a key leads in a grid of so many columns, whose cells are counted row by row: to a neighbour, to the ends of
 * the row, with Ctrl to the ends of the grid. Undefined for keys that lead nowhere, such as those of the browser's own.
 */
export function reached(event: Pressed, from: number, columns: number, length: number): number | undefined {
  if (event.altKey || event.metaKey) return undefined;
  const start = from - (from % columns);
  const end = Math.min(start + columns, length) - 1;
  if (event.ctrlKey) return { Home: 0, End: length - 1 }[event.key];
  return {
    ArrowRight: Math.min(from + 1, end),
    ArrowLeft: Math.max(from - 1, start),
    ArrowDown: from + columns < length ? from + columns : from,
    ArrowUp: from >= columns ? from - columns : from,
    Home: start,
    End: end,
  }[event.key];
}
