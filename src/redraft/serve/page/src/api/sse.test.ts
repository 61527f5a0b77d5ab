import { describe, expect, it } from "vitest";
import { EventStreamParser, serverEvents, type ServerEvent } from "./sse";

const parsed = (...chunks: string[]) => {
  const parser = new EventStreamParser();
  return chunks.flatMap((chunk) => parser.push(chunk));
};

describe("EventStreamParser", () => {
  const stream = 'event: start\ndata: {"id":1}\n\nevent: step\ndata: {"a":\ndata: 2}\n\n';
  const events = [
    { event: "start", data: '{"id":1}' },
    { event: "step", data: '{"a":\n2}' },
  ];

  it("reads events and joins lines of data", () => expect(parsed(stream)).toEqual(events));

  it("does not care where chunks end", () => {
    for (const text of [stream, stream.replaceAll("\n", "\r\n"), stream.replaceAll("\n", "\r")]) {
      expect(parsed(...text)).toEqual(events);
      for (let cut = 0; cut <= text.length; cut++) {
        expect(parsed(text.slice(0, cut), text.slice(cut))).toEqual(events);
      }
    }
  });

  it("takes the two halves of a CRLF in different chunks as one line end", () => {
    expect(parsed("data: a\r", "\ndata: b\r", "\n\r", "\n")).toEqual([{ event: "message", data: "a\nb" }]);
  });

  it("skips comments, unknown fields and events without data", () => {
    expect(parsed(": ping\n\nid: 7\nretry: 10\nevent: nothing\n\ndata: x\n\n")).toEqual([
      { event: "message", data: "x" },
    ]);
  });

  it("takes away one space after the colon, and no more", () => {
    expect(parsed("data:a\n\ndata:  b\n\ndata\n\ndata: a:b\n\n").map((event) => event.data)).toEqual([
      "a",
      " b",
      "",
      "a:b",
    ]);
  });

  it("drops a byte order mark at the start only", () => {
    expect(parsed("\uFEFFdata: a\uFEFF\n\n")).toEqual([{ event: "message", data: "a\uFEFF" }]);
  });

  it("drops an event that the connection cut off", () => expect(parsed("data: a\n\ndata: b\n")).toHaveLength(1));
});

describe("serverEvents", () => {
  const read = async (chunks: Uint8Array[]) => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(chunk);
        controller.close();
      },
    });
    const events: ServerEvent[] = [];
    for await (const event of serverEvents(body)) events.push(event);
    return events;
  };

  it("decodes characters that are split between chunks", async () => {
    const bytes = new TextEncoder().encode("data: naïve 漢字 🙂\n\n");
    expect(await read([...bytes].map((byte) => new Uint8Array([byte])))).toEqual([
      { event: "message", data: "naïve 漢字 🙂" },
    ]);
  });

  it("cancels the body when its reader leaves", async () => {
    let cancelled = false;
    const body = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new TextEncoder().encode("data: a\n\n")),
      cancel: () => void (cancelled = true),
    });
    for await (const _ of serverEvents(body)) break;
    expect(cancelled).toBe(true);
  });
});
