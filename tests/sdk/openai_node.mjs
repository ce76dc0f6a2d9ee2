// Tests the OpenAI SDK for Node. Arguments: BASE_URL MODEL [CASE...]. Prints one line per case and stops at the first failure.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

// The package is installed in a cache folder, not next to this file.
const require = createRequire(path.join(process.env.SDK_FOLDER, "x.js"));
const { default: OpenAI, toFile } = await import(pathToFileURL(require.resolve("openai")));
const { version } = JSON.parse(
  readFileSync(path.join(process.env.SDK_FOLDER, "node_modules/openai/package.json"), "utf8"),
);

const messages = [{ role: "user", content: "Hello" }];

const cases = {
  async chat(client, model) {
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 5 });
    assert.equal(answer.model, model);
    assert.equal(answer.usage.completion_tokens, 5);
    return answer.usage.completion_tokens;
  },
  async stream(client, model) {
    const events = await client.chat.completions.create({
      // The body keeps the order of the fields.
      messages,
      model,
      max_tokens: 7,
      stream: true,
      stream_options: { include_usage: true },
    });
    let usage;
    for await (const event of events) {
      assert.equal(event.model, model);
      usage = event.usage ?? usage;
    }
    assert.equal(usage.completion_tokens, 7);
    return usage.completion_tokens;
  },
  async cancel(client, model) {
    const events = await client.chat.completions.create({ model, messages, max_tokens: 1500, stream: true });
    for await (const _ of events) {
      events.controller.abort();
      break;
    }
    return "aborted after one event";
  },
  async responses(client, model) {
    const answer = await client.responses.create({ model, input: "Hello", max_output_tokens: 16 });
    assert.equal(answer.model, model);
    assert.ok(answer.usage.output_tokens > 0);
    return answer.usage.output_tokens;
  },
  async responses_stream(client, model) {
    const kinds = [];
    const events = await client.responses.create({ model, input: "Hello", max_output_tokens: 16, stream: true });
    for await (const event of events) {
      kinds.push(event.type);
      if (event.response) assert.equal(event.response.model, model);
    }
    assert.equal(kinds[0], "response.created");
    assert.ok(kinds.includes("response.output_text.delta"));
    return kinds.length;
  },
  async embeddings(client, model) {
    const answer = await client.embeddings.create({ model, input: ["Hello", "water"] });
    assert.equal(answer.model, model);
    assert.equal(answer.data.length, 2);
    assert.ok(answer.data[0].embedding.length > 0);
    return answer.data[0].embedding.length;
  },
  async transcription(client, model) {
    // The model follows the file, as with `curl -F`.
    const file = await toFile(Buffer.alloc(200_000, "RIFF"), "speech.wav");
    const answer = await client.audio.transcriptions.create({ file, model });
    assert.ok(answer.text);
    return answer.text;
  },
  async models(client, model) {
    const ids = (await client.models.list()).data.map((entry) => entry.id);
    assert.ok(ids.includes(model));
    return ids.length;
  },
  async unknown_model(client) {
    const asked = client.chat.completions.create({ model: "nonexistent", messages });
    await assert.rejects(asked, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
    return "model_not_found";
  },
};

// Run only if they are named.
const ofOtherSetups = {
  // With API keys: KEY may use one of two models, once.
  async door(client, model) {
    const { KEY, OTHER_MODEL } = process.env;
    const own = client.withOptions({ apiKey: KEY });
    const failure = async (asking, kind, status, code) => {
      const error = await cases.chat(...asking).then(() => assert.fail("it was answered"), (error) => error);
      assert.ok(error instanceof kind && error.status === status && error.code === code, error);
      return error;
    };
    await failure([client.withOptions({ apiKey: "k-unknown" }), model], OpenAI.AuthenticationError, 401, "invalid_api_key");
    await failure([own, OTHER_MODEL], OpenAI.PermissionDeniedError, 403, "permission_denied");
    assert.deepEqual((await own.models.list()).data.map((entry) => entry.id), [model]);
    await cases.chat(own, model);
    const limited = await failure([own, model], OpenAI.RateLimitError, 429, "quota_exceeded");
    assert.ok(Number(limited.headers.get("retry-after")) > 0);
    return "invalid_api_key, permission_denied, quota_exceeded";
  },
};

const [baseURL, model, ...wanted] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });
for (const [name, run] of Object.entries({ ...cases, ...ofOtherSetups })) {
  if (wanted.includes(name) || (wanted.length === 0 && name in cases)) {
    console.log(`openai-node ${version} ${name}: ${await run(client, model)}`);
  }
}
