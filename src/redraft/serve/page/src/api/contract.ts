/** What the server takes and answers: the page's half of the contract of /v1/redraft. */

export interface Message {
  role: "user" | "assistant";
  content: string;
}

export type Constraint = { type: "json_schema"; schema: unknown } | { type: "regex"; pattern: string };

export interface Parameters {
  max_tokens?: number;
  seed?: number;
  temperature?: number;
  max_denoising_steps?: number;
  entropy_bound?: number;
  thinking?: boolean;
}

export type Prompt = { prompt: string } | { messages: Message[] };

export type GenerateBody = Parameters & {
  constraint?: Constraint;
  /** What the canvas starts from in the place of noise. */
  draft?: { text: string; survival?: number };
} & (Prompt | { fill: { prefix: string; suffix: string }; messages?: Message[] });

export type ExtractBody = Parameters & {
  text: string;
  schema: unknown;
  layout?: "slots" | "text";
  verbatim?: boolean;
  /** A value that the canvas starts from in the place of noise, for the model to correct. */
  draft?: unknown;
};

export type ChooseBody = Prompt & {
  questions: Record<string, string[]>;
  frame?: string;
  max_denoising_steps?: number;
  seed?: number;
  calibrated?: boolean;
  /** Options compare by their probability for each byte; left out, by their whole probability. */
  normalize?: "length";
};

export interface Start {
  id: string;
  model: string;
  seed: number;
  prompt_tokens: number;
  canvas_length: number;
  /** Tokens that end the answer: what stands after the first of them is not part of it. */
  end_token_ids: number[];
}

export interface Step {
  canvas: number;
  /** Counted from 1 to `of` at most. */
  step: number;
  of: number;
  temperature: number;
  /** The canvas that the model saw. */
  tokens: number[];
  argmax: number[];
  /** Nats. */
  entropy: number[];
  accepted: number[];
  finished: boolean;
  /** Positions whose argmax differs from the step before. */
  changed: number[];
  /** Texts of tokens that this stream had not named before. */
  pieces: Record<string, string>;
}

export interface Chunk {
  canvas: number;
  text: string;
  thought: string;
  denoising_steps: number;
  converged: boolean;
}

export interface Usage {
  prompt_tokens: number;
  cached_prompt_tokens: number;
  completion_tokens: number;
  canvases: number;
  denoising_steps: number;
  time_to_first_token: number;
  seconds: number;
  tokens_per_step: number;
}

export interface Result {
  text: string;
  finish_reason: "stop" | "length";
  seed: number;
  thought: string | null;
  log_valid: number[];
  unconverged_canvases: number[];
  usage: Usage;
  /** What was filled in, where the request was to fill. */
  middle?: string;
}

/** The result of an extraction; its values by JSON pointer. */
export interface Extracted extends Result {
  value: unknown;
  confidence: Record<string, number>;
  /** The characters, not UTF-16 units, of values that stand in the text as they are. */
  places: Record<string, [number, number]>;
  layout: "slots" | "text";
  /** Why JSON was written although slots were asked for. */
  fallback: string | null;
}

export interface Decision {
  choice: string;
  confidence: number;
  probabilities: Record<string, number>;
}

export interface ChooseResult {
  answers: Record<string, Decision>;
  log_valid: number;
  seed: number;
  usage: Usage;
}

export interface ServerError {
  message: string;
  /** The field of the request that it is about. */
  param: string | null;
}

export type StreamEvent =
  | { event: "start"; data: Start }
  | { event: "step"; data: Step }
  | { event: "chunk"; data: Chunk }
  | { event: "result"; data: Result }
  | { event: "error"; data: ServerError };
