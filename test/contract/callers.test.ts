/**
 * What callers send who were not written by reading OpenAI's specification: examples of its cookbook, answers of SDK
 * helpers sent back as they are, wrappers that fill every field. Their code must work here unchanged.
 */
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from '../http/scripted-worker.ts';

const t = useApp();
let client: OpenAI;
let worker: ScriptedWorker;

beforeAll(async () => {
  client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve(), maxRetries: 0 });
  worker = await ScriptedWorker.start(t.database);
  worker.script = answerOf(['ok']);
});
afterAll(() => worker?.stop());

describe('a conversation with tools', () => {
  const call = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{}' } };
  const ask = (messages: object[]) =>
    client.chat.completions.create({ model: BASE_MODEL, messages: messages as never });

  it("names the function in the tool's message, as the cookbook does", async () => {
    await ask([
      { role: 'user', content: 'Rain?' },
      { role: 'assistant', content: null, tool_calls: [call] },
      { role: 'tool', tool_call_id: 'call_1', name: 'get_weather', content: 'no' },
    ]);
    expect(worker.requests.at(-1)?.messages.at(-1)).toEqual({
      ...{ role: 'tool', content: 'no', tool_call_id: 'call_1', name: 'get_weather' },
    });
  });

  it('comes back from a stream helper with the place of each call in it', async () => {
    const parsed = { ...call.function, parsed_arguments: {} };
    await ask([
      { role: 'user', content: 'Rain?' },
      {
        role: 'assistant',
        ...{ content: null, refusal: null, annotations: [], audio: null, function_call: null, parsed: null },
        tool_calls: [{ ...call, function: parsed, index: 0 }],
      },
      { role: 'tool', tool_call_id: 'call_1', content: 'no' },
    ]);
    expect(worker.requests.at(-1)?.messages[1]?.tool_calls).toEqual([call]);
  });

  it('may have names that are null', async () => {
    await ask([
      { role: 'system', content: 'Be brief.', name: null },
      { role: 'user', content: 'Rain?', name: null },
      { role: 'assistant', content: null, name: null, tool_calls: [call] },
      { role: 'tool', tool_call_id: 'call_1', name: null, content: 'no' },
    ]);
    expect(worker.requests.at(-1)?.messages.flatMap(Object.keys)).not.toContain('name');
  });
});

describe('a file without an ending', () => {
  const batchLine = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: {} });

  // Python's SDK calls bytes "upload", its 0.28 every file "file", and Node's unnamed bytes "unknown_file".
  it.each([
    ['fine-tune', 'upload', TEN_ROWS],
    ['fine-tune', 'file', TEN_ROWS],
    ['batch', 'unknown_file', batchLine],
  ] as const)('for %s, called %s, is what it contains', async (purpose, name, text) => {
    const file = await client.files.create({ file: new File([text], name), purpose });
    expect(file).toMatchObject({ filename: name, purpose, status: 'processed' });
    const broken = client.files.create({ file: new File(['no rows'], name), purpose });
    await expect(broken).rejects.toMatchObject({ status: 400, code: 'invalid_jsonl', param: 'file' });
  });

  it('may come as an Upload', async () => {
    const { uploads } = client;
    const bytes = Buffer.byteLength(TEN_ROWS);
    const fields = { filename: 'upload', purpose: 'fine-tune', bytes, mime_type: 'text/jsonl' } as const;
    const upload = await uploads.create(fields);
    const part = await uploads.parts.create(upload.id, { data: new File([TEN_ROWS], 'part') });
    expect((await uploads.complete(upload.id, { part_ids: [part.id] })).file?.filename).toBe('upload');
  });
});

it('an integration may leave out what it has not got', async () => {
  const { id } = await client.files.create({ file: new File([TEN_ROWS], 'a.jsonl'), purpose: 'fine-tune' });
  const wandb = { project: 'p', name: null, entity: null, tags: null };
  const integrations = [{ type: 'wandb', wandb }] as never;
  const job = await client.fineTuning.jobs.create({ model: BASE_MODEL, training_file: id, integrations });
  expect(job.integrations).toEqual([{ type: 'wandb', wandb }]);
});
