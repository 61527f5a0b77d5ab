/** The API key, if the server wants one. It lives as long as the tab: sessionStorage, or memory where that is forbidden. */

const NAME = "redraft-key";

class Keyring {
  /** Set while the page should ask for a key; the words say why. */
  asking = $state<string | null>(null);
  #key: string | null = null;
  #answered: ((key: string | null) => void)[] = [];

  constructor() {
    try {
      this.#key = sessionStorage.getItem(NAME);
    } catch {
      // Kept in memory only.
    }
  }

  get headers(): Record<string, string> {
    return this.#key === null ? {} : { Authorization: `Bearer ${this.#key}` };
  }

  /** Ask for a key. Whoever asks while the question is open waits for the same answer. */
  ask(): Promise<boolean> {
    this.asking ??= this.#key === null ? "This server asks for an API key." : "The server did not take that key.";
    return new Promise((resolve) => this.#answered.push((key) => resolve(key !== null)));
  }

  /** The user's answer; null if there is none. */
  answer(key: string | null): void {
    if (key !== null) {
      this.#key = key;
      try {
        sessionStorage.setItem(NAME, key);
      } catch {
        // Kept in memory only.
      }
    }
    this.asking = null;
    for (const answered of this.#answered.splice(0)) answered(key);
  }
}

export const keyring = new Keyring();
