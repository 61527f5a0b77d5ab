/** Server-sent events out of a fetch body: EventSource can neither POST nor send a key. */

export interface ServerEvent {
  event: string;
  data: string;
}

/** Takes text as it arrives, split anywhere, and hands out the events that are whole. */
export class EventStreamParser {
  #line = "";
  #event = "";
  #data: string[] = [];
  #begun = false;
  #afterReturn = false;

  push(text: string): ServerEvent[] {
    const events: ServerEvent[] = [];
    for (const character of text) {
      if (!this.#begun) {
        this.#begun = true;
        if (character === "\uFEFF") continue;
      }
      // A line ends with \r, \n or \r\n, and the two halves of the last may come in different chunks.
      const secondHalf = this.#afterReturn && character === "\n";
      this.#afterReturn = character === "\r";
      if (secondHalf) continue;
      if (character === "\r" || character === "\n") {
        const event = this.#endLine();
        if (event) events.push(event);
      } else {
        this.#line += character;
      }
    }
    return events;
  }

  #endLine(): ServerEvent | undefined {
    const line = this.#line;
    this.#line = "";
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment, sent to keep the connection open
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
  }

  #dispatch(): ServerEvent | undefined {
    const event = { event: this.#event || "message", data: this.#data.join("\n") };
    const empty = this.#data.length === 0;
    this.#event = "";
    this.#data = [];
    return empty ? undefined : event;
  }
}

/** The events of a response's body. Leaving the loop early closes the connection. */
export async function* serverEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const parser = new EventStreamParser();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
