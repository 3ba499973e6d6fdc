// Drives OpenAI's Node SDK against the service at argv[2], asking about the data URI at argv[3], and through the proxy at
// argv[4], which loses the first answer; prints JSON.
import OpenAI from "openai";

const [url, image, proxy] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "EMPTY", maxRetries: 0 });
const input = [{ role: "user", content: [{ type: "input_image", image_url: image }, { type: "input_text", text: "?" }] }];

let polled = await client.responses.create({ model: "tileq-demo", input, background: true });
while (["queued", "in_progress"].includes(polled.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  polled = await client.responses.retrieve(polled.id);
}
let cut = 0;
let text = "";
for await (const event of await client.responses.create({ model: "tileq-demo", input, stream: true })) {
  if (event.type === "response.created") cut = { id: event.response.id };
  if (event.type === "response.output_text.delta") {
    text += event.delta;
    cut.after = event.sequence_number;
    break;
  }
}
for await (const event of await client.responses.retrieve(cut.id, { stream: true, starting_after: cut.after })) {
  if (event.type === "response.output_text.delta") text += event.delta;
  if (event.type === "response.completed") cut.whole = event.response.output_text ?? event.response.output[0].content[0].text;
}
let chat = "";
const messages = [{ role: "user", content: "?" }];
for await (const chunk of await client.chat.completions.create({ model: "tileq-demo", messages, stream: true })) {
  chat += chunk.choices[0]?.delta.content ?? "";
}
const told = (error) => [error.constructor.name, error.status, error.code];
const waiting = await client.responses.create({ model: "internvl-chat-v1.5", input: "?", background: true }); // no worker has it
const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "tq_unknown", maxRetries: 0 });
const refused = await Promise.all([
  client.responses.retrieve("resp_0").catch(told),
  client.chat.completions.create({ model: "tileq-demo", messages, n: 2 }).catch(told),
  client.responses.delete(waiting.id).catch(told),
  stranger.models.list().catch(told),
]);
await client.responses.cancel(waiting.id);
const cutting = new OpenAI({ baseURL: `${proxy}/v1`, apiKey: "EMPTY", maxRetries: 2 });
cutting.idempotencyHeader = "Idempotency-Key"; // then every call sends a key of its own, and its retries the same one
const retried = [(await cutting.responses.create({ input: "?", background: true, metadata: { call: "node" } })).id];
console.log(JSON.stringify({ polled: polled.output_text, text, whole: cut.whole, chat, refused, retried }));
