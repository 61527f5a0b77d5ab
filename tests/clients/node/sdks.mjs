// OpenAI's and Anthropic's own JavaScript clients: headers of their own, models, streams with tools, the prompt's tokens.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [url, model] = process.argv.slice(2);
const parameters = { type: "object", properties: { word: { enum: ["alpha", "beta"] } }, required: ["word"] };
const messages = [{ role: "user", content: "look alpha up" }];

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
assert.deepEqual((await openai.models.list()).data.map((one) => one.id), [model]);
const tools = [{ type: "function", function: { name: "look_up", parameters } }];
const runner = openai.chat.completions.stream({ model, messages, tools, tool_choice: "required", max_completion_tokens: 90 });
const said = (await runner.finalChatCompletion()).choices[0];
assert.equal(said.finish_reason, "tool_calls");
assert.ok(["alpha", "beta"].includes(JSON.parse(said.message.tool_calls[0].function.arguments).word));
const response = await openai.responses.create({ model, input: "hi", max_output_tokens: 30, store: false });
assert.equal(typeof response.output_text, "string");

const anthropic = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const page = await anthropic.models.list();
assert.deepEqual(page.data.map((one) => [one.id, one.type, one.display_name]), [[model, "model", model]]);
assert.equal(page.hasNextPage(), false);
const own = [{ name: "look_up", input_schema: parameters, eager_input_streaming: true }];
const counted = await anthropic.messages.countTokens({ model, messages, tools: own });
const stream = anthropic.messages.stream({ model, messages, tools: own, tool_choice: { type: "any" }, max_tokens: 90 });
const message = await stream.finalMessage();
assert.equal(message.stop_reason, "tool_use");
assert.ok(["alpha", "beta"].includes(message.content[0].input.word));
assert.equal(message.usage.input_tokens + message.usage.cache_read_input_tokens, counted.input_tokens);
console.log("sdks: ok");
