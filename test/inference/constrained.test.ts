/**
 * Constrained decoding through the whole worker on the shipped model: JSON by schema, tool calls, and what is refused.
 * The full measurement (300 schemas × 3 seeds) is `npm run bench -- grammar`.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { randomSchema } from '../../bench/random-schema.ts';
import { schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { Grammars } from '../../workers/inference/grammar/grammars.ts';
import { TinyWorker, TinyWorld } from './tiny-worker.ts';

let world: TinyWorld;
let worker: TinyWorker;
beforeAll(async () => {
  world = await TinyWorld.shipped();
  worker = await TinyWorker.start(world, { maxRunning: 8, tokenBudget: 256 });
}, 60_000);
afterAll(async () => {
  await worker.stop();
  await world.remove();
});

const format = (schema: unknown, strict = false) => ({
  extra: { response_format: { type: 'json_schema' as const, schema, strict } },
  max_tokens: null,
});
const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    strict: true,
    parameters: {
      type: 'object',
      properties: { city: { type: 'string', maxLength: 12 }, unit: { enum: ['c', 'f'] } },
      required: ['city', 'unit'],
      additionalProperties: false,
    },
  },
};
const clock = { type: 'function', function: { name: 'get_time' } };

describe('answers under a schema', { timeout: 60_000 }, () => {
  it('are valid for random schemas at any temperature, several at a time', async () => {
    const ajv = new Ajv2020({ strict: false, logger: false });
    const cases = Array.from({ length: 12 }, (_, seed) => ({ seed, schema: randomSchema(seed) }));
    await Promise.all(
      cases.map(async ({ seed, schema }) => {
        const temperature = seed % 3 === 0 ? 0 : 1;
        const answer = await worker.ask({ content: 'Say something.', temperature, seed, ...format(schema) });
        expect([answer.error, answer.reasons]).toEqual([null, ['stop']]);
        const valid = ajv.validate(schema, JSON.parse(answer.text[0]!));
        expect([valid, answer.text[0], ajv.errors, schema]).toEqual([true, answer.text[0], null, schema]);
      }),
    );
  });

  it('keep what can be kept of a schema that is not strict', async () => {
    const schema = {
      type: 'object',
      properties: {
        kind: { enum: ['cup', 'boat'] },
        count: { type: 'integer', minimum: 1, maximum: 9, format: 'int32' },
        parts: { type: 'array', items: { type: 'boolean' }, minItems: 2, maxItems: 2, uniqueItems: true },
      },
      allOf: [{ required: ['kind', 'count'] }, { required: ['parts'] }],
      not: { properties: { count: { const: 1 } } },
    };
    const { not: _, ...kept } = structuredClone(schema);
    const { uniqueItems: __, ...parts } = kept.properties.parts;
    const valid = new Ajv2020({ strict: false, logger: false }).compile({
      ...{ ...kept, properties: { ...kept.properties, parts } },
    });
    for (let seed = 0; seed < 8; seed++) {
      const answer = await worker.ask({ content: 'Say something.', temperature: 1, seed, ...format(schema) });
      expect([answer.error, answer.reasons]).toEqual([null, ['stop']]);
      expect([valid(JSON.parse(answer.text[0]!)), answer.text[0]]).toEqual([true, answer.text[0]]);
    }
    const strict = await worker.ask({ content: 'Say something.', ...format(schema, true) });
    expect([strict.status, strict.error?.code]).toEqual([400, 'invalid_json_schema']);
  });

  it('are some JSON object with json_object, beside free answers in the same batch', async () => {
    const sampling = { temperature: 1, seed: 5, n: 2, max_tokens: 400 };
    const [json, free] = await Promise.all([
      worker.ask({ content: 'Hi', ...sampling, extra: { response_format: { type: 'json_object' } } }),
      worker.ask({ content: 'Who is Wendy?', ...sampling }),
    ]);
    json.text.forEach((text, i) => {
      if (json.reasons[i] === 'stop') expect(JSON.parse(text)).toBeTypeOf('object');
      else expect([json.reasons[i], text[0]]).toEqual(['length', '{']);
    });
    expect(free.text).toEqual((await worker.ask({ content: 'Who is Wendy?', ...sampling })).text);
  });

  it('report length when they are cut, and log-probabilities of allowed tokens only', async () => {
    const schema = { type: 'array', items: { const: 7 }, minItems: 50 };
    const cut = await worker.ask({ content: 'Hi', top_logprobs: 5, ...format(schema), max_tokens: 20 });
    expect(cut.reasons).toEqual(['length']);
    expect(cut.completionTokens).toBe(20);
    for (const token of cut.tokens[0]!) {
      expect(token.logprob).toBeLessThanOrEqual(0);
      expect(token.top_logprobs.length).toBeGreaterThan(0);
      for (const other of token.top_logprobs) expect(other.token.trim()).toMatch(/^[[\],7 \n\t]*$/);
    }
  });

  it('hold against logit_bias and penalties', async () => {
    const schema = { enum: ['red', 'green'] };
    const [brace] = world.tokenizer.encode('{');
    const answer = await worker.ask({
      content: 'Hi',
      temperature: 2,
      presence_penalty: 2,
      frequency_penalty: -2,
      logit_bias: { [String(brace)]: 100 },
      ...format(schema),
    });
    expect(['"red"', '"green"']).toContain(answer.text[0]);
  });

  it('refuse by the name of the keyword', async () => {
    const answer = await worker.ask({ content: 'Hi', ...format({ type: 'array', uniqueItems: true }, true) });
    expect(answer.error).toMatchObject({
      status: 400,
      param: 'response_format',
      code: 'invalid_json_schema',
    });
    expect(answer.error?.message).toContain("'uniqueItems' is not supported");
  });

  it('outlive an abort of the matcher and a grammar that takes too long', async () => {
    const broken = worker.grammars.compile({ kind: 'ebnf', text: 'root ::= nowhere' }, 'response_format');
    await expect(broken).rejects.toMatchObject({ status: 400, code: 'schema_too_complex' });
    const answer = await worker.ask({ content: 'Hi', ...format({ const: 'still here' }) });
    expect([answer.error, answer.text]).toEqual([null, ['"still here"']]);
    const hurried = new Grammars({
      modelDirectory: world.modelDirectory,
      threads: 1,
      deadlineMilliseconds: 1,
      connect: (_thread, port) => port.close(),
    });
    const slow = schemaGrammar({ type: 'string', maxLength: 2000, minLength: 1000 });
    await expect(hurried.compile({ kind: 'ebnf', text: slow }, 'tools')).rejects.toMatchObject({
      param: 'tools',
    });
    await hurried.close();
  });

  it('survive a grammar thread that dies in the middle', async () => {
    const schema = { type: 'array', items: { type: 'integer' }, minItems: 40, maxItems: 40 };
    let killed = false;
    const asked = { content: 'Hi', temperature: 1, seed: 3, ...format(schema) };
    const whole = await worker.ask(asked);
    const answer = await worker.ask({
      ...asked,
      onEvent: (event) => {
        if (killed || event.type !== 'delta') return;
        killed = true;
        worker.grammars.interrupt();
      },
    });
    expect(killed).toBe(true);
    expect(answer.text).toEqual(whole.text);
    expect(JSON.parse(answer.text[0]!)).toHaveLength(40);
  });
});

describe('tool calls', { timeout: 60_000 }, () => {
  it('are always valid when required, several in one answer unless told otherwise', async () => {
    const how = { mode: 'required' as const, names: null };
    for (const parallel of [true, false]) {
      const answer = await worker.ask({
        content: 'What is the weather?',
        temperature: 1,
        seed: 11,
        n: 3,
        tools: [weather, clock],
        extra: { tool_choice: { ...how, parallel } },
        max_tokens: 300,
      });
      answer.calls.forEach((calls, i) => {
        if (answer.reasons[i] === 'length') return;
        expect(answer.reasons[i]).toBe('tool_calls');
        expect(answer.text[i]).toBe('');
        if (!parallel) expect(calls).toHaveLength(1);
        for (const { name, arguments: text } of calls) {
          const value = JSON.parse(text);
          if (name === 'get_time') expect(value).toEqual({});
          else expect(Object.keys(value)).toEqual(['city', 'unit']);
        }
      });
      expect(answer.calls.flat().length).toBeGreaterThanOrEqual(1);
    }
  });

  it('are of the named function when one is forced', async () => {
    const answer = await worker.ask({
      content: 'Hi',
      max_tokens: null,
      tools: [weather, clock],
      extra: { tool_choice: { mode: 'required', names: ['get_time'], parallel: false } },
    });
    expect(answer.calls).toEqual([[{ name: 'get_time', arguments: '{}' }]]);
    expect(answer.reasons).toEqual(['tool_calls']);
  });

  it('are left to the model on auto, and impossible on none', async () => {
    const none = { mode: 'none' as const, names: null, parallel: true };
    const answer = await worker.ask({
      content: 'Who is Wendy?',
      tools: [clock],
      extra: { tool_choice: none },
    });
    expect(answer.text).toEqual((await worker.ask({ content: 'Who is Wendy?' })).text);
    const auto = await worker.ask({ content: 'Who is Wendy?', tools: [weather], max_tokens: 60 });
    expect([auto.error, auto.calls]).toEqual([null, [[]]]);
  });
});

describe('raw prompts', { timeout: 60_000 }, () => {
  it('go on with text and tokens alike, and score their own tokens', async () => {
    const text = 'Wendy lives in';
    const tokens = world.tokenizer.encode(text);
    const [a, b] = await Promise.all(
      [text, tokens].map((prompt) =>
        worker.ask({ content: '', max_tokens: 8, extra: { prompt, prompt_logprobs: 2 } }),
      ),
    );
    expect(a!.text).toEqual(b!.text);
    expect(a!.prompt.map(({ token }) => token).join('')).toBe(text);
    const model = world.model;
    const logits = model.logits(
      {
        ids: Int32Array.from(tokens),
        positions: Int32Array.from(tokens, (_, i) => i),
        cuSeqlens: Int32Array.of(0, tokens.length),
        targets: new Int32Array(tokens.length).fill(-100),
      },
      Int32Array.from(tokens, (_, i) => i),
    );
    expect(a!.prompt[0]?.logprob).toBeNull();
    a!.prompt.forEach(({ logprob, top_logprobs }, i) => {
      if (i === 0) return;
      const row = logits.subarray((i - 1) * model.config.vocabSize, i * model.config.vocabSize);
      const peak = Math.max(...row);
      const total = row.reduce((sum, value) => sum + Math.exp(value - peak), 0);
      expect(logprob).toBeCloseTo(row[tokens[i]!]! - peak - Math.log(total), 1);
      expect(top_logprobs).toHaveLength(2);
    });
  });

  it('may ask for no token at all', async () => {
    const answer = await worker.ask({
      content: '',
      max_tokens: 0,
      extra: { prompt: 'Wendy', prompt_logprobs: 0 },
    });
    expect([answer.text, answer.reasons, answer.completionTokens]).toEqual([[''], ['length'], 0]);
    expect(answer.prompt.length).toBe(answer.promptTokens);
  });
});
