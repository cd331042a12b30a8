/** Legacy text completions: prompts of every kind, echo, log-probabilities, best_of, streams, refusals. */
import OpenAI from 'openai';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GenerateEvent, GenerateRequest } from '../../src/inference/protocol.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { ScriptedWorker } from './scripted-worker.ts';

const t = useApp();
let worker: ScriptedWorker;
let client: OpenAI;
beforeEach(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = completing;
  client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
});
afterEach(() => worker.stop());

const token = (text: string, logprob: number) => ({
  token: text,
  bytes: [...Buffer.from(text)],
  logprob,
  top_logprobs: [{ token: 'é', bytes: [...Buffer.from('é')], logprob: -0.1 }],
});

/** Says "<prompt>!" and its number in every choice; later choices are likelier. */
function completing(request: GenerateRequest): GenerateEvent[] {
  const { prompt, prompt_logprobs, sampling } = request;
  const text = typeof prompt === 'string' ? prompt : 'tok';
  const asked = [...text].map((letter, i) => ({ ...token(letter, -2), logprob: i === 0 ? null : -2 }));
  const choices = Array.from({ length: sampling.n }, (_, i) => i);
  return [
    { type: 'start', prompt_tokens: 3, cached_tokens: 0 },
    ...(prompt_logprobs === undefined ? [] : [{ type: 'prompt' as const, tokens: asked }]),
    ...choices.flatMap((index): GenerateEvent[] => [
      { type: 'delta', index, text: `${text}!`, tokens: [token(`${text}!`, index - 9)] },
      { type: 'delta', index, text: String(index), tokens: [token(String(index), index - 9)] },
      { type: 'finish', index, reason: 'length' },
    ]),
    { type: 'done', prompt_tokens: 3, completion_tokens: 2 * sampling.n, cached_tokens: 0 },
  ];
}

const ask = (extra: object) => ({ model: BASE_MODEL, prompt: 'ab', ...extra });
const complete = (extra: object = {}) =>
  client.completions.create(ask(extra) as never) as Promise<OpenAI.Completion>;

describe('a text completion', () => {
  it("has OpenAI's shape and defaults", async () => {
    const done = await complete();
    expect(done).toMatchObject({
      id: expect.stringMatching(/^cmpl-[0-9A-Za-z]{24}$/),
      object: 'text_completion',
      model: BASE_MODEL,
      choices: [{ text: 'ab!0', index: 0, logprobs: null, finish_reason: 'length' }],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    });
    expect(worker.requests[0]).toMatchObject({
      messages: [],
      prompt: 'ab',
      sampling: { max_tokens: 16, n: 1 },
    });
    expect(worker.requests[0]).not.toHaveProperty('prompt_logprobs');
  });

  it('takes several prompts, as text and as tokens', async () => {
    const { choices, usage } = await complete({ prompt: ['x', 'y', 'z'], n: 2 });
    expect(choices.map(({ text, index }) => [text, index])).toEqual(
      ['x!0', 'x!1', 'y!0', 'y!1', 'z!0', 'z!1'].map((text, index) => [text, index]),
    );
    expect(usage).toMatchObject({ prompt_tokens: 9, completion_tokens: 12 });
    await complete({ prompt: [5, 6] });
    expect(worker.requests.at(-1)?.prompt).toEqual([5, 6]);
    expect((await complete({ prompt: [[5], [6, 7]] })).choices).toHaveLength(2);
  });

  it('echoes the prompt with its log-probabilities and offsets', async () => {
    const { choices } = await complete({ prompt: 'é2', echo: true, logprobs: 1, max_tokens: 0 });
    expect(worker.requests[0]).toMatchObject({ prompt_logprobs: 1, sampling: { max_tokens: 0 } });
    expect(choices[0]).toMatchObject({
      text: 'é2é2!0',
      logprobs: {
        tokens: ['é', '2', 'é2!', '0'],
        token_logprobs: [null, -2, -9, -9],
        text_offset: [0, 1, 2, 5],
        top_logprobs: [null, { é: -0.1, '2': -2 }, { é: -0.1, 'é2!': -9 }, { é: -0.1, '0': -9 }],
      },
    });
    expect((await complete({ prompt: [1], echo: true })).choices[0]?.text).toBe('toktok!0');
    const offsets = (await complete({ logprobs: 0 })).choices[0]?.logprobs;
    expect([offsets?.text_offset, offsets?.top_logprobs]).toEqual([[2, 5], null]);
  });

  it('keeps the likeliest of best_of', async () => {
    const { choices, usage } = await complete({ best_of: 4, n: 2 });
    expect(choices.map(({ text, index, logprobs }) => [text, index, logprobs])).toEqual([
      ['ab!3', 0, null],
      ['ab!2', 1, null],
    ]);
    expect([worker.requests[0]?.sampling.n, usage?.completion_tokens]).toEqual([4, 8]);
  });

  it('streams prompt after prompt, with usage when asked', async () => {
    const stream = await client.completions.create(
      ask({ prompt: ['x', 'y'], stream: true, echo: true, stream_options: { include_usage: true } }) as never,
    );
    const texts = new Map<number, string>();
    let usage: unknown = null;
    for await (const part of stream as unknown as AsyncIterable<OpenAI.Completion>) {
      for (const { index, text } of part.choices) texts.set(index, (texts.get(index) ?? '') + text);
      usage = part.usage ?? usage;
    }
    expect([...texts]).toEqual([
      [0, 'xx!0'],
      [1, 'yy!0'],
    ]);
    expect(usage).toMatchObject({ prompt_tokens: 6, completion_tokens: 4 });
  });

  it('tells of failures before and within a stream', async () => {
    const busy = {
      status: 429,
      type: 'rate_limit_error',
      code: 'rate_limit_exceeded',
      param: null,
      message: 'busy',
      retry_after_seconds: 1,
    } as const;
    worker.script = busy;
    await expect(complete()).rejects.toMatchObject({ status: 429 });
    worker.script = [...completing({ prompt: 'a', sampling: { n: 1 } } as never).slice(0, 2), 100, 'break'];
    const stream = await client.completions.create(ask({ stream: true }) as never);
    const read = async () => {
      for await (const _ of stream as unknown as AsyncIterable<unknown>);
    };
    await expect(read()).rejects.toMatchObject({ code: 'worker_lost' });
  });

  it('refuses by name', async () => {
    const bad: [object, string, string][] = [
      [{ suffix: 'end' }, 'suffix', 'unsupported_parameter'],
      [{ best_of: 1, n: 2 }, 'best_of', 'invalid_value'],
      [{ best_of: 3, stream: true }, 'best_of', 'invalid_value'],
      [{ logprobs: 6 }, 'logprobs', 'integer_above_max_value'],
      [{ max_tokens: 0 }, 'max_tokens', 'invalid_value'],
      [{ stream_options: {} }, 'stream_options', 'invalid_value'],
      [{ prompt: Array.from({ length: 100 }, () => 'x'), n: 2 }, 'prompt', 'invalid_value'],
      [{ messages: [] }, 'messages', 'unknown_parameter'],
      [{ prompt: undefined }, 'prompt', 'missing_required_parameter'],
    ];
    for (const [extra, param, code] of bad) {
      const { status, json } = await t.call('POST', '/v1/completions', { json: ask(extra) });
      expect([status, json.error.param, json.error.code]).toEqual([400, param, code]);
    }
    const { json } = await t.call('POST', '/v1/completions', { json: ask({ model: 'nope' }) });
    expect(json.error.code).toBe('model_not_found');
  });
});
