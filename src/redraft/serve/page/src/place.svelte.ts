/** Where in the page the user is, as the address says it: #tab, or #sudoku/<81 characters> with a puzzle. */

export const TABS = ["extract", "decide", "fill", "schema", "chat", "sudoku"] as const;
export type Tab = (typeof TABS)[number];

/** Without the escapes that a browser may put into an address; as it stands, if they are none. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

class Place {
  tab = $state<Tab>(TABS[0]);
  /** The puzzle on the board as the address says it; empty where it says none. */
  puzzle = $state("");
  #chosen = false;

  constructor() {
    this.#read();
    addEventListener("hashchange", () => this.#read());
  }

  /** The tab to begin with, unless the address or the user chose one. */
  settle(tab: Tab): void {
    if (!this.#chosen) this.tab = tab;
    this.#chosen = true;
  }

  go(tab: Tab, puzzle = this.puzzle): void {
    this.#chosen = true;
    this.tab = tab;
    this.puzzle = puzzle;
    history.replaceState(null, "", tab === "sudoku" && puzzle ? `#sudoku/${puzzle}` : `#${tab}`);
  }

  #read(): void {
    const [name, puzzle] = decoded(location.hash.slice(1)).split("/", 2);
    const tab = TABS.find((known) => known === name);
    if (!tab) return;
    this.#chosen = true;
    this.tab = tab;
    this.puzzle = puzzle ?? this.puzzle;
  }
}

export const place = new Place();
