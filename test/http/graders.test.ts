/** Graders over HTTP: what each kind says about a sample, what it may fail with, and what is refused by name. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NO_ERRORS } from '../../src/domain/graders/grader.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp();
const RUN = '/v1/fine_tuning/alpha/graders/run';
const VALIDATE = '/v1/fine_tuning/alpha/graders/validate';

const run = async (grader: object, model_sample: string, item?: object) =>
  t.call('POST', RUN, { json: { grader, model_sample, ...(item ? { item } : {}) } });
const stringCheck = (operation: string, fields: object = {}) => ({
  type: 'string_check',
  name: 'check',
  operation,
  input: '{{sample.output_text}}',
  reference: '{{item.answer}}',
  ...fields,
});

describe('string_check', () => {
  it.each([
    ['eq', 'Paris', 'Paris', 1],
    ['eq', 'paris', 'Paris', 0],
    ['ne', 'paris', 'Paris', 1],
    ['neq', 'Paris', 'Paris', 0],
    ['like', 'It is Paris.', 'Paris', 1],
    ['like', 'It is paris.', 'Paris', 0],
    ['ilike', 'IT IS PARIS.', 'paris', 1],
  ])('%s of %j and %j is %d', async (operation, sample, answer, reward) => {
    const { status, json } = await run(stringCheck(operation), sample, { answer });
    expect(status).toBe(200);
    expect(json).toEqual({
      reward,
      metadata: {
        name: 'check',
        type: 'string_check',
        errors: NO_ERRORS,
        execution_time: expect.any(Number),
        scores: {},
        token_usage: null,
        sampled_model_name: null,
      },
      sub_rewards: {},
      model_grader_token_usage_per_model: {},
    });
  });
});

describe('templates', () => {
  it.each([
    ['{{ item.a.b[1] }}', 'two'],
    ['{{item.list}}', '[1,2]'],
    ['{{item["odd key"]}}', 'x'],
    ['{{sample.output_json.deep.n}}', '3'],
    ['{{sample.choices[0].message.content}}', '{"deep":{"n":3}}'],
    ['{{sample.output_tools}}', '[]'],
    ['{{item.yes}} and {{item.none}}', 'true and null'],
    ['{ {item.a} } {{item.brace}}', '{ {item.a} } {{item.a}}'],
  ])('fill %s', async (input, reference) => {
    const item = {
      a: { b: ['one', 'two'] },
      list: [1, 2],
      'odd key': 'x',
      yes: true,
      none: null,
      brace: '{{item.a}}',
      reference,
    };
    const grader = stringCheck('eq', { input, reference: '{{item.reference}}' });
    const { json } = await run(grader, '{"deep":{"n":3}}', item);
    expect(json).toMatchObject({ reward: 1, metadata: { errors: NO_ERRORS } });
  });

  it.each([
    ['{{item.missing}}', 'plain', 'invalid_variable_error'],
    ['{{item.constructor.name}}', 'plain', 'invalid_variable_error'],
    ['{{item.__proto__}}', 'plain', 'invalid_variable_error'],
    ['{{sample.output_json.x}}', 'plain', 'sample_parse_error'],
    ['{{sample.output_json.x}}', '{}', 'invalid_variable_error'],
  ])('%s of sample %s is %s', async (input, sample, fault) => {
    const { status, json } = await run(stringCheck('eq', { input }), sample, { answer: 'x' });
    expect([status, json.reward, json.metadata.errors]).toEqual([200, 0, { ...NO_ERRORS, [fault]: true }]);
  });

  it.each(['{{foo.bar}}', '{{sample.text}}', '{{sample.output_audio}}', '{{item.x + 1}}', '{{}}'])(
    'with %s are refused before anything runs',
    async (reference) => {
      for (const url of [RUN, VALIDATE]) {
        const { status, json } = await t.call('POST', url, {
          json: { grader: stringCheck('eq', { reference }), ...(url === RUN ? { model_sample: '' } : {}) },
        });
        expect([status, json.error.param, json.error.code]).toEqual([
          400,
          'grader.reference',
          'invalid_value',
        ]);
      }
    },
  );
});

describe('text_similarity', () => {
  const similarity = (evaluation_metric: string) => ({
    type: 'text_similarity',
    name: 'near',
    input: '{{sample.output_text}}',
    reference: '{{item.answer}}',
    evaluation_metric,
    pass_threshold: 0.5,
  });

  it.each(['fuzzy_match', 'bleu', 'gleu', 'meteor', 'rouge_1', 'rouge_2', 'rouge_l'])(
    '%s',
    async (metric) => {
      const same = await run(similarity(metric), 'the cat sat on the mat', {
        answer: 'the cat sat on the mat',
      });
      // METEOR's penalty for one chunk keeps the same text just below 1.
      expect(same.json.reward).toBeGreaterThan(0.99);
      const other = await run(similarity(metric), 'the cat sat on a mat', {
        answer: 'the cat sat on the mat',
      });
      expect(other.json.reward).toBeGreaterThan(0.4);
      expect(other.json.reward).toBeLessThan(1);
    },
  );

  it('says so when a text is too long to compare', async () => {
    const { json } = await run(similarity('fuzzy_match'), 'x'.repeat(20_001), { answer: 'x' });
    expect(json).toMatchObject({ reward: 0, metadata: { errors: { truncated_observation_error: true } } });
  });

  it.each([
    ['cosine', 'unsupported_value', /'cosine' needs embeddings/],
    ['levenshtein', 'invalid_value', /expected one of 'fuzzy_match'/],
  ])('refuses %s by name', async (metric, code, message) => {
    const { status, json } = await run(similarity(metric), 'x', { answer: 'x' });
    expect([status, json.error.code, json.error.param]).toEqual([400, code, 'grader.evaluation_metric']);
    expect(json.error.message).toMatch(message);
  });
});

describe('multi', () => {
  const multi = (calculate_output: string, graders: object = {}) => ({
    type: 'multi',
    name: 'both',
    graders: { exact: stringCheck('eq'), near: stringCheck('ilike'), ...graders },
    calculate_output,
  });

  it.each([
    ['(exact + near) / 2', 0.5],
    ['2^3^2 - 500', 12],
    ['-2^2', -4],
    ['max(exact, near, 0.25) * 3', 3],
    ['min(exact, near) + abs(-1.5) + floor(1.9) + ceil(0.1)', 3.5],
    ['sqrt(16) + log(exp(2)) + 1e1', 16],
    ['near * (1 - exact) / .5', 2],
  ])('%s is %d', async (formula, reward) => {
    const { json } = await run(multi(formula), 'PARIS', { answer: 'Paris' });
    expect(json.reward).toBeCloseTo(reward, 12);
    expect([json.sub_rewards, json.metadata.scores]).toEqual([
      { exact: 0, near: 1 },
      { exact: 0, near: 1 },
    ]);
    expect((await t.call('POST', VALIDATE, { json: { grader: multi(formula) } })).status).toBe(200);
  });

  it.each([
    ['exact +', 'unexpected the end at character 8'],
    ['exact ** ', 'unexpected the end'],
    ['exact; near', "unexpected ';' at character 6"],
    ['system(1)', "there is no function 'system'"],
    ['other * 2', "there is no grader 'other'"],
    ['sqrt(exact, near)', "'sqrt' takes one value, not 2"],
    ['('.repeat(200), 'more than 64 levels'],
    ['2^'.repeat(100), 'more than 64 powers'],
  ])(
    'with the formula %s is refused by validate, and a formula_parse_error of a run',
    async (formula, why) => {
      const { status, json } = await t.call('POST', VALIDATE, { json: { grader: multi(formula) } });
      expect([status, json.error.param]).toEqual([400, 'grader.calculate_output']);
      expect(json.error.message).toContain(why);
      const outcome = await run(multi(formula), 'x', { answer: 'x' });
      expect(outcome.json).toMatchObject({ reward: 0, metadata: { errors: { formula_parse_error: true } } });
    },
  );

  it('has no reward when the formula has no value', async () => {
    for (const formula of ['1 / exact', 'log(exact)', 'sqrt(exact - 1)']) {
      const { status, json } = await run(multi(formula), 'PARIS', { answer: 'Paris' });
      expect([status, json.reward, json.metadata.errors.other_error]).toEqual([200, 0, true]);
    }
  });

  it("takes one grader as the SDKs' types have it", async () => {
    const grader = {
      type: 'multi',
      name: 'm',
      graders: stringCheck('eq', { name: 'only' }),
      calculate_output: 'only * 2',
    };
    expect((await run(grader, 'a', { answer: 'a' })).json.reward).toBe(2);
  });

  it('refuses python, another multi and names that no formula can hold', async () => {
    const python = { type: 'python', name: 'p', source: 'def grade(sample, item): return 1' };
    for (const [grader, param, code] of [
      [python, 'grader.type', 'unsupported_value'],
      [multi('exact', { p: python }), 'grader.graders.p.type', 'unsupported_value'],
      [multi('exact', { inner: multi('exact') }), 'grader.graders.inner.type', 'invalid_value'],
      [multi('exact', { 'a b': stringCheck('eq') }), 'grader.graders', 'invalid_value'],
      [{ ...multi('exact'), graders: {} }, 'grader.graders', 'invalid_value'],
    ] as const) {
      const { status, json } = await run(grader, 'x', { answer: 'x' });
      expect([status, json.error?.param, json.error?.code]).toEqual([400, param, code]);
    }
  });
});

describe('validate', () => {
  it('answers the grader with its defaults', async () => {
    const grader = {
      type: 'score_model',
      name: 'judge',
      model: BASE_MODEL,
      input: [{ role: 'user', content: 'Rate {{sample.output_text}}' }],
    };
    const { status, json } = await t.call('POST', VALIDATE, { json: { grader } });
    expect([status, json]).toEqual([200, { grader: { ...grader, range: [0, 1] } }]);
  });

  it('tells a missing field, an unknown one and an unknown model', async () => {
    const judge = {
      type: 'score_model',
      name: 'judge',
      model: 'nobody',
      input: [{ role: 'user', content: 'x' }],
    };
    for (const [grader, status, param, code] of [
      [{ type: 'string_check', name: 'x' }, 400, 'grader.input', 'missing_required_parameter'],
      [{ ...stringCheck('eq'), threshold: 1 }, 400, 'grader.threshold', 'unknown_parameter'],
      [{ ...judge, range: [1, 0] }, 400, 'grader.range', 'invalid_value'],
      [
        { ...judge, input: [{ role: 'user', content: { type: 'input_image', image_url: 'http://x' } }] },
        400,
        'grader.input[0].content',
        'unsupported_content',
      ],
      [judge, 404, 'grader.model', 'model_not_found'],
      [{ type: 'wizard', name: 'x' }, 400, 'grader.type', 'invalid_value'],
    ] as const) {
      const { status: got, json } = await t.call('POST', VALIDATE, { json: { grader } });
      expect([got, json.error?.param, json.error?.code]).toEqual([status, param, code]);
    }
  });
});

describe('score_model and label_model', () => {
  let worker: ScriptedWorker;
  beforeAll(async () => {
    worker = await ScriptedWorker.start(t.database);
  });
  afterAll(() => worker?.stop());

  const judge = {
    type: 'score_model',
    name: 'judge',
    model: BASE_MODEL,
    input: [
      { role: 'system', content: 'You judge.' },
      {
        role: 'user',
        content: ['Question: {{item.q}}', { type: 'input_text', text: 'Answer: {{sample.output_text}}' }],
      },
    ],
    range: [0, 10],
    sampling_params: { temperature: 0, seed: 3, max_completions_tokens: 99 },
  };

  it('ask the model with the variables filled in and keep its number in range', async () => {
    for (const [result, reward] of [
      [7.5, 7.5],
      [99, 10],
      [-3, 0],
    ] as const) {
      worker.script = answerOf([JSON.stringify({ steps: [], result })], { prompt: 11 });
      const { status, json } = await run(judge, 'Because.', { q: 'Why?' });
      expect([status, json.reward]).toEqual([200, reward]);
      expect(json.metadata).toMatchObject({
        errors: NO_ERRORS,
        token_usage: 12,
        sampled_model_name: BASE_MODEL,
      });
      expect(json.model_grader_token_usage_per_model).toEqual({
        [BASE_MODEL]: { prompt_tokens: 11, completion_tokens: 1, total_tokens: 12 },
      });
    }
    const sent = worker.requests.at(-1)!;
    expect(sent.messages[0]).toMatchObject({ role: 'system', content: 'You judge.' });
    expect(sent.messages[1]?.content).toMatch(
      /^Question: Why\?\nAnswer: Because\.\n\n.*"result": a number from 0 to 10/s,
    );
    expect(sent.sampling).toMatchObject({ temperature: 0, seed: 3, max_tokens: 99 });
    expect(sent.cache_owner).toBe(t.alice.projectId);
  });

  it('report what they cannot read, and a model that does not answer', async () => {
    for (const text of ['no JSON', '{"steps":[]}', '{"steps":[],"result":"7"}', '[1]']) {
      worker.script = answerOf([text]);
      const { status, json } = await run(judge, 'x', { q: 'x' });
      expect([status, json.reward, json.metadata.errors]).toEqual([
        200,
        0,
        { ...NO_ERRORS, model_grader_parse_error: true },
      ]);
      expect(json.metadata.token_usage).toBeGreaterThan(0);
    }
    worker.script = { status: 500, type: 'server_error', code: null, param: null, message: 'Broken.' };
    const { json } = await run(judge, 'x', { q: 'x' });
    expect(json.metadata.errors).toMatchObject({
      model_grader_server_error: true,
      model_grader_server_error_details: expect.stringMatching(/cannot be served/),
    });
  });

  it('pick a label', async () => {
    const grader = {
      type: 'label_model',
      name: 'label',
      model: BASE_MODEL,
      input: [{ role: 'user', content: '{{sample.output_text}}' }],
      labels: ['good', 'bad'],
      passing_labels: ['good'],
    };
    for (const [label, reward, unread] of [
      ['good', 1, false],
      ['bad', 0, false],
      ['ugly', 0, true],
    ] as const) {
      worker.script = answerOf([JSON.stringify({ steps: [], label })]);
      const { json } = await run(grader, 'x');
      expect([json.reward, json.metadata.errors.model_grader_parse_error]).toEqual([reward, unread]);
    }
    const { json } = await run({ ...grader, passing_labels: ['great'] }, 'x');
    expect([json.error.param, json.error.code]).toEqual(['grader.passing_labels', 'invalid_value']);
  });
});
