/** The models that the server has, and the one that the user talks to. */

class Served {
  names = $state.raw<readonly string[]>([]);
  model = $state("");

  /** What a request says of its model: nothing where there is one alone. */
  get named(): { model?: string } {
    return this.names.length > 1 ? { model: this.model } : {};
  }

  meet(names: readonly string[]): void {
    this.names = names;
    if (!names.includes(this.model)) this.model = names[0] ?? "no model";
  }
}

export const served = new Served();
