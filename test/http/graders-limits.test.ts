/** What bounds graders: the rate and the scope of those that ask a model, and the length of what texts come to. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createKey } from '../../src/domain/keys/create.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp({ requestsPerMinute: 2 });
let worker: ScriptedWorker;
beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = answerOf(['{"steps":[],"result":1}']);
});
afterAll(() => worker?.stop());

const RUN = '/v1/fine_tuning/alpha/graders/run';
const input = [{ role: 'user', content: 'Rate {{sample.output_text}}' }];
const grader = { type: 'score_model', name: 'judge', model: BASE_MODEL, input };

it('a key without api.model.request runs no grader that asks a model', async () => {
  const scopes = ['api.fine_tuning.jobs.write'];
  const { key } = await createKey(t.database, t.alice.projectId, 'jobs only', null, { scopes });
  const check = { type: 'string_check', name: 'check', input: 'a', reference: 'a', operation: 'eq' };
  const multi = { type: 'multi', name: 'both', graders: { check, judge: grader }, calculate_output: 'check' };
  for (const each of [grader, multi]) {
    const refused = await t.call('POST', RUN, { key, json: { grader: each, model_sample: 'x' } });
    expect([refused.status, refused.json.error.code]).toEqual([403, 'insufficient_scope']);
    expect(refused.json.error.message).toContain('api.model.request');
  }
  expect((await t.call('POST', RUN, { key, json: { grader: check, model_sample: 'x' } })).json.reward).toBe(
    1,
  );
  expect(worker.requests).toHaveLength(0);
});

it('texts that come to more than there is room for are an error of the run', async () => {
  const long = '{{sample.output_text}}'.repeat(600);
  const check = { type: 'string_check', name: 'check', input: long, reference: 'a', operation: 'eq' };
  const both = { a: check, b: { ...check, name: 'b', reference: '{{item.object}}'.repeat(600) } };
  const model = { ...grader, input: Array.from({ length: 20 }, () => ({ role: 'user', content: long })) };
  for (const each of [check, { type: 'multi', name: 'm', graders: both, calculate_output: 'a' }, model]) {
    const json = {
      grader: each,
      item: { object: { text: 'b'.repeat(1000) } },
      model_sample: 'a'.repeat(2 ** 20),
    };
    const { status, json: run } = await t.call('POST', RUN, { json });
    expect([status, run.reward]).toEqual([200, 0]);
    expect(run.metadata.errors.truncated_observation_error).toBe(true);
  }
  expect(worker.requests).toHaveLength(0);
});

it('those that ask a model spend what their project may a minute, and say so when it is spent', async () => {
  const run = async () => {
    const json = { grader, model_sample: 'x' };
    return (await t.call('POST', RUN, { json })).json;
  };
  expect([(await run()).reward, (await run()).reward]).toEqual([1, 1]);
  const { reward, metadata } = await run();
  expect(reward).toBe(0);
  expect(metadata.errors).toMatchObject({
    model_grader_server_error: true,
    model_grader_server_error_details: expect.stringMatching(/^Rate limit reached for /),
  });
  expect(worker.requests).toHaveLength(2);
});
