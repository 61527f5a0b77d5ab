/** What the cells of a canvas show: the model's likeliest tokens, or the tokens that it was given. */
export type View = "guess" | "seen";
