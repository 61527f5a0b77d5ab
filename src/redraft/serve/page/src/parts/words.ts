/** Numbers as the page writes them. */

export const count = (number: number, noun: string): string =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export const seconds = (value: number): string =>
  value < 1 ? `${value.toPrecision(2)} s` : `${value.toFixed(value < 100 ? 1 : 0)} s`;

export const fixed = (value: number, digits: number): string => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");

/** A probability in per cent; never 0 or 100 where it is not. */
export function percent(probability: number): string {
  const value = 100 * probability;
  if (probability > 0 && value < 0.1) return "under 0.1\u00A0%";
  if (probability < 1 && value > 99.9) return "over 99.9\u00A0%";
  return `${value.toFixed(1)}\u00A0%`;
}
