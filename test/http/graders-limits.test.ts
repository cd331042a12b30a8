/** Graders that ask a model spend what their project may spend a minute. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp({ requestsPerMinute: 2 });
let worker: ScriptedWorker;
beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = answerOf(['{"steps":[],"result":1}']);
});
afterAll(() => worker?.stop());

it('and say so when it is spent', async () => {
  const input = [{ role: 'user', content: 'Rate {{sample.output_text}}' }];
  const grader = { type: 'score_model', name: 'judge', model: BASE_MODEL, input };
  const run = async () => {
    const json = { grader, model_sample: 'x' };
    return (await t.call('POST', '/v1/fine_tuning/alpha/graders/run', { json })).json;
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
