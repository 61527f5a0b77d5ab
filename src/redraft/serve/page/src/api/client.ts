/** Talks to the server that the page came from, and says in words what went wrong. */

import type { ChooseBody, ChooseResult, ExtractBody, GenerateBody, ServerError, StreamEvent } from "./contract";
import { keyring } from "./key.svelte";
import { served } from "./served.svelte";
import { serverEvents } from "./sse";

/** Something that went wrong, in words for the user. */
export class Failure extends Error {
  constructor(
    message: string,
    readonly param: string | null = null,
  ) {
    super(message);
  }

  static of(error: ServerError): Failure {
    return new Failure(error.message, error.param);
  }

  /** Whatever was thrown. */
  static from(error: unknown): Failure {
    return error instanceof Failure ? error : new Failure(String(error));
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** The names of the models that are served, the one first that answers where none is named. */
export async function modelNames(): Promise<string[]> {
  const list = await json<{ data: { id: string }[] }>(await request("v1/models"));
  return list.data.map(({ id }) => id);
}

export async function version(): Promise<string> {
  return (await json<{ version?: string }>(await request("health"))).version ?? "";
}

export type AnswerEvent = Exclude<StreamEvent, { event: "error" }>;

/** The events of one answer; an error event is thrown. Aborting closes the connection, which cancels the work. */
export const generate = (body: GenerateBody, signal: AbortSignal): AsyncGenerator<AnswerEvent> =>
  events("v1/redraft/generate", body, signal);

/** The same of a text that is read; its result is an `Extracted`. */
export const extract = (body: ExtractBody, signal: AbortSignal): AsyncGenerator<AnswerEvent> =>
  events("v1/redraft/extract", body, signal);

async function* events(path: string, body: object, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
  const response = await request(path, { ...served.named, ...body }, signal);
  if (!response.body) throw new Failure("The server's answer has no body.");
  let whole = false;
  try {
    for await (const { event, data } of serverEvents(response.body)) {
      const read = { event, data: JSON.parse(data) } as StreamEvent;
      if (read.event === "error") throw Failure.of(read.data);
      whole ||= read.event === "result";
      yield read;
    }
  } catch (error) {
    if (error instanceof Failure || isAbort(error)) throw error;
    if (error instanceof SyntaxError) throw new Failure(`The server sent an event that is not JSON: ${error.message}`);
    throw new Failure("The connection broke before the answer was complete.");
  }
  if (!whole) throw new Failure("The connection ended before the answer was complete.");
}

export async function choose(body: ChooseBody, signal: AbortSignal): Promise<ChooseResult> {
  return json<ChooseResult>(await request("v1/redraft/choose", { ...served.named, ...body }, signal));
}

async function request(path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  for (;;) {
    const response = await send(path, body, signal);
    if (response.ok) return response;
    if (response.status !== 401) throw await refusal(response);
    if (!(await keyring.ask())) throw new Failure("The server asks for an API key, and none was given.");
  }
}

async function send(path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  try {
    return await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: { ...keyring.headers, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Failure(`No answer from ${location.host}. Is redraft serve still running?`);
  }
}

async function refusal(response: Response): Promise<Failure> {
  try {
    const { error } = (await response.json()) as { error: ServerError };
    if (error.message) return Failure.of(error);
  } catch {
    // Not an answer of Redraft's own.
  }
  return new Failure(`The server answered ${response.status} ${response.statusText}`.trim() + ", and did not say why.");
}

async function json<T>(response: Response): Promise<T> {
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Failure("The server's answer is not JSON.");
  }
}
