// An application that asks for completions with one SDK: `node ask.mjs SDK BASE_URL`.
//
// Each line of stdin is a request, {"namespace": "…"}. Each line of stdout is either a pause that the SDK takes before a retry,
// {"wait": SECONDS}, which lasts until the next line of stdin; or the end of the request, {"statuses": [429, 200],
// "error": null}. So nobody waits for time to pass, and the tests see how long the SDK would have.
import { createInterface } from 'node:readline';

const [sdk, baseURL] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const write = (line) => process.stdout.write(JSON.stringify(line) + '\n');

const setTimer = globalThis.setTimeout;
globalThis.setTimeout = (callback, milliseconds, ...rest) => {
  // All of them pause in a module of this name; other timers are those of requests and connections.
  if (!new Error().stack.split('\n')[2].includes('/internal/utils/sleep.')) return setTimer(callback, milliseconds, ...rest);
  write({ wait: milliseconds / 1000 });
  lines.next().then(() => callback(...rest));
  return undefined;
};

let statuses = [];
const options = {
  baseURL,
  apiKey: 'none',
  fetch: async (...request) => {
    const response = await fetch(...request);
    statuses.push(response.status);
    return response;
  },
};
const messages = [{ role: 'user', content: 'Hello?' }];

const calls = {
  'openai-6': async () => openai((await import('openai-6')).default),
  'openai-7': async () => openai((await import('openai-7')).default),
  anthropic: async () => {
    const { default: Anthropic } = await import('@anthropic-ai/sdk');
    const client = new Anthropic(options);
    return (headers) => client.messages.create({ model: 'claude-x', max_tokens: 100, messages }, { headers });
  },
};

function openai(OpenAI) {
  const client = new OpenAI({ ...options, baseURL: `${baseURL}/v1` });
  return (headers) => client.chat.completions.create({ model: 'gpt-x', messages }, { headers });
}

const ask = await calls[sdk]();
for (let line = await lines.next(); !line.done; line = await lines.next()) {
  statuses = [];
  let error = null;
  try {
    await ask({ 'x-client-ns': JSON.parse(line.value).namespace });
  } catch (caught) {
    const { status, code, type, message, errorCode } = caught;
    error = { name: caught.constructor.name, status, code: code ?? errorCode, type, message };
  }
  write({ statuses, error });
}
