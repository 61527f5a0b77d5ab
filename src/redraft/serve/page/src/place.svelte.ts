/** Where in the page the user is, as the address says it: #tab, or #sudoku/<81 characters> with a puzzle. */

export const TABS = ["chat", "sudoku", "schema", "fill", "decide"] as const;
export type Tab = (typeof TABS)[number];

class Place {
  tab = $state<Tab>("chat");
  /** What follows the tab's name. */
  detail = $state("");
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

  go(tab: Tab, detail = ""): void {
    this.#chosen = true;
    this.tab = tab;
    this.detail = detail;
    history.replaceState(null, "", `#${[tab, detail].filter(Boolean).join("/")}`);
  }

  #read(): void {
    const [name, detail = ""] = decodeURIComponent(location.hash.slice(1)).split("/", 2);
    const tab = TABS.find((known) => known === name);
    if (!tab) return;
    this.#chosen = true;
    this.tab = tab;
    this.detail = detail;
  }
}

export const place = new Place();
