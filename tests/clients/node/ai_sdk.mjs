// Vercel's AI SDK over Anthropic's and OpenAI's formats: streams with tools, a whole tool turn, typed objects.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" });
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "redraft",
  baseURL: `${url}/v1`,
  apiKey: "none",
  supportsStructuredOutputs: true,
});
// Nothing is stored here: the client has to send its turns whole.
const whole = { openai: { store: false } };

const lookUp = tool({
  description: "Look a word up.",
  inputSchema: z.object({ word: z.enum(["alpha", "beta"]) }),
  execute: async ({ word }) => `found ${word}`,
});
const thing = z.object({ kind: z.enum(["good", "bad"]), tags: z.array(z.enum(["a", "b"])).max(2) });

const models = {
  anthropic: anthropic(name),
  chat: openai.chat(name),
  responses: openai.responses(name),
  compatible: compatible(name),
};
for (const [format, model] of Object.entries(models)) {
  const common = { model, maxOutputTokens: 200, maxRetries: 0, providerOptions: whole };
  const plain = await generateText({ ...common, system: "be brief", prompt: "hi" });
  assert.ok(plain.usage.outputTokens > 0, format);

  const streamed = streamText({ ...common, prompt: "hi", onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, await streamed.text, format);

  const kinds = new Set();
  let steps = 0;
  const turn = streamText({
    ...common,
    prompt: "look alpha up",
    tools: { lookUp },
    stopWhen: stepCountIs(3),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
    onStepFinish: () => { steps += 1; },
    onError: ({ error }) => { throw error; },
  });
  for await (const part of turn.fullStream) {
    if (part.type === "error") throw part.error;
    kinds.add(part.type);
  }
  for (const kind of ["tool-call", "tool-result", "finish"]) assert.ok(kinds.has(kind), `${format}: no ${kind}`);
  assert.ok(steps >= 2, `${format}: the result of the tool was not sent back`);

  const typed = await generateText({ ...common, prompt: "judge", output: Output.object({ schema: thing }) });
  thing.parse(typed.output);
}
console.log("ai-sdk: ok");
