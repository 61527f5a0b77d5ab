/** One answer: what has arrived of it, and which of its steps is shown. */

import { extract, Failure, generate, isAbort, type AnswerEvent } from "../api/client";
import type { Chunk, ExtractBody, GenerateBody, Result, Start, Step } from "../api/contract";
import { announce } from "../parts/announcer.svelte";
import { count, seconds } from "../parts/words";
import { endOf, joined } from "./recording";

/** A small model denoises faster than an eye follows; each step stays at least this long. */
const MILLISECONDS_PER_STEP = 220;
/** Nor can a page be drawn as often as such a model makes a step: what arrives meanwhile is shown together. */
const MILLISECONDS_PER_DRAWING = 40;

export type Status = "idle" | "running" | "done" | "stopped" | "failed";

export class Run {
  status = $state<Status>("idle");
  start = $state.raw<Start | null>(null);
  steps = $state.raw<readonly Step[]>([]);
  chunks = $state.raw<readonly Chunk[]>([]);
  result = $state.raw<Result | null>(null);
  failure = $state.raw<Failure | null>(null);
  /** The index of the step that is shown. */
  shown = $state(0);
  /** Whether the shown step moves on by itself: through what is recorded, then with what arrives. */
  playing = $state(false);
  /** The position that the inspector describes. */
  position = $state<number | null>(null);

  readonly step = $derived(this.steps[this.shown]);
  readonly running = $derived(this.status === "running");
  /** All has arrived, and the last step is shown. */
  readonly settled = $derived(!this.running && this.shown >= this.steps.length - 1);
  /** The answer's text as of the step that is shown. */
  readonly text = $derived.by(() => this.#text());

  readonly #pieces = new Map<number, string>();
  #abort: AbortController | null = null;
  /** Steps that are not in `steps` yet, and what will put them there. */
  #arrived: Step[] = [];
  #drawing: ReturnType<typeof setTimeout> | undefined;
  #playing: ReturnType<typeof setTimeout> | undefined;

  piece(token: number | undefined): string {
    return token === undefined ? "" : (this.#pieces.get(token) ?? `#${token}`);
  }

  /** Ask for an answer, and take it in until it is complete, stopped or failed. */
  generate(body: GenerateBody): Promise<void> {
    return this.#take(generate, body);
  }

  /** The same of a text to be read. */
  extract(body: ExtractBody): Promise<void> {
    return this.#take(extract, body);
  }

  async #take<Body>(ask: (body: Body, signal: AbortSignal) => AsyncGenerator<AnswerEvent>, body: Body): Promise<void> {
    this.clear();
    const abort = (this.#abort = new AbortController());
    this.status = "running";
    this.playing = true;
    announce("Denoising.");
    let error: unknown = null;
    try {
      for await (const { event, data } of ask(body, abort.signal)) {
        // A run that was cleared meanwhile belongs to somebody else.
        if (this.#abort !== abort) return;
        if (event === "start") this.start = data;
        else if (event === "step") this.#add(data);
        else if (event === "chunk") this.chunks = [...this.chunks, data];
        else if (event === "result") this.result = data;
      }
    } catch (thrown) {
      error = thrown;
    }
    if (this.#abort === abort) this.#end(error);
  }

  stop(): void {
    this.#abort?.abort();
  }

  /** Forget everything; what is under way is cancelled. */
  clear(): void {
    const abort = this.#abort;
    this.#abort = null;
    abort?.abort();
    this.pause();
    clearTimeout(this.#drawing);
    this.#drawing = undefined;
    this.#arrived = [];
    this.#pieces.clear();
    this.status = "idle";
    this.start = this.result = this.failure = this.position = null;
    this.steps = [];
    this.chunks = [];
    this.shown = 0;
  }

  /** Show one step, and stay there. */
  seek(index: number): void {
    this.pause();
    this.shown = Math.max(0, Math.min(index, this.steps.length - 1));
  }

  play(): void {
    if (!this.running && this.shown >= this.steps.length - 1) this.shown = 0;
    this.playing = true;
    this.#schedule();
  }

  pause(): void {
    this.playing = false;
    clearTimeout(this.#playing);
    this.#playing = undefined;
  }

  #add(step: Step): void {
    for (const [token, piece] of Object.entries(step.pieces)) this.#pieces.set(Number(token), piece);
    this.#arrived.push(step);
    this.#drawing ??= setTimeout(() => this.#draw(), MILLISECONDS_PER_DRAWING);
  }

  #draw(): void {
    clearTimeout(this.#drawing);
    this.#drawing = undefined;
    this.steps = [...this.steps, ...this.#arrived];
    this.#arrived = [];
    // Whoever wants no motion sees the newest step, and scrubs through the others.
    if (this.playing && matchMedia("(prefers-reduced-motion: reduce)").matches) this.shown = this.steps.length - 1;
    else this.#schedule();
  }

  /** Nothing more arrives: what plays ends at the last step. */
  #end(error: unknown): void {
    this.#draw();
    if (error === null) {
      this.status = "done";
      announce(this.#summary());
    } else if (isAbort(error)) {
      this.status = "stopped";
      announce("Stopped.");
    } else {
      this.failure = Failure.from(error);
      this.status = "failed";
    }
    if (this.settled) this.pause();
  }

  #schedule(): void {
    if (this.playing) this.#playing ??= setTimeout(() => this.#tick(), MILLISECONDS_PER_STEP);
  }

  #tick(): void {
    this.#playing = undefined;
    if (this.shown < this.steps.length - 1) {
      this.shown += 1;
      this.#schedule();
    } else if (!this.running) {
      this.playing = false;
    }
  }

  #text(): string {
    const step = this.step;
    if (this.settled && this.result) return this.result.text;
    if (!step) return "";
    const whole = this.chunks.filter((chunk) => chunk.canvas < step.canvas).map((chunk) => chunk.text);
    const end = endOf(step, this.start?.end_token_ids ?? []);
    const pieces = step.argmax.slice(0, end).map((token) => this.piece(token));
    return whole.join("") + joined(pieces);
  }

  #summary(): string {
    const usage = this.result?.usage;
    if (!usage) return "";
    return `Answer ready: ${count(usage.denoising_steps, "step")} in ${seconds(usage.seconds)}.`;
  }
}
