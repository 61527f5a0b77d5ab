/** The models that the server has, and which of them is asked in which tab. */

import { place, TABS, type Tab } from "../place.svelte";

/** Where the models that ship are at home, by their names in /v1/models: what else it lists does not tell them apart. */
const HOMES: ReadonlyMap<string, Tab> = new Map([
  ["pocket", "extract"],
  ["sudoku", "sudoku"],
]);
/** The tab that a model opens the page with; of one that does not ship the page knows nothing, and it may well chat. */
const homeOf = (model: string): Tab => HOMES.get(model) ?? "chat";

/** Whether a model reads Sudoku puzzles and nothing else. */
export const readsPuzzles = (model: string): boolean => homeOf(model) === "sudoku";

/** The puzzles' tab is for a model that reads nothing else, and every other one for those that read text. */
const suits = (model: string, tab: Tab): boolean => readsPuzzles(model) === (tab === "sudoku");

class Served {
  names = $state.raw<readonly string[]>([]);
  #chosen = $state.raw<{ readonly [tab in Tab]?: string }>({});

  /** The tabs as they are shown: the home of the server's default model first. Another choice does not move them. */
  readonly tabs = $derived.by<readonly Tab[]>(() => {
    const first = this.names[0];
    const home = first === undefined ? TABS[0] : homeOf(first);
    return [home, ...TABS.filter((tab) => tab !== home)];
  });

  /** The model that a tab asks: the one chosen for it, or the first that suits it; empty as long as none is known. */
  of(tab: Tab): string {
    const chosen = this.#chosen[tab];
    if (chosen !== undefined && this.names.includes(chosen)) return chosen;
    return this.names.find((name) => suits(name, tab)) ?? this.names[0] ?? "";
  }

  /** The model of the tab that the user is in. */
  get model(): string {
    return this.of(place.tab);
  }

  /** A choice holds for every tab that the model suits, and in any case for the one where it was made. */
  set model(name: string) {
    const tabs = TABS.filter((tab) => tab === place.tab || suits(name, tab));
    this.#chosen = { ...this.#chosen, ...Object.fromEntries(tabs.map((tab) => [tab, name])) };
  }

  /** The model that solves puzzles, if there is one. */
  get solver(): string | undefined {
    return this.names.find(readsPuzzles);
  }

  /** What a request says of its model: nothing where there is one alone. */
  get named(): { model?: string } {
    return this.names.length > 1 ? { model: this.model } : {};
  }
}

export const served = new Served();
