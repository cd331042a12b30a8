/**
 * The official SDK, as it is, over a real port: what its users do with files, jobs, models and chat works unchanged.
 * Training and generation are scripted; they have suites of their own.
 */
import OpenAI, {
  APIConnectionError,
  AuthenticationError,
  BadRequestError,
  NotFoundError,
  RateLimitError,
} from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addCheckpoint, addTunedModel } from '../http/rows.ts';
import { answerOf, ScriptedWorker } from '../http/scripted-worker.ts';

const t = useApp();
let client: OpenAI;
let worker: ScriptedWorker;

beforeAll(async () => {
  client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve() });
  worker = await ScriptedWorker.start(t.database);
});
afterAll(() => worker?.stop());

const trainingFile = (name = 'train.jsonl') => new File([TEN_ROWS], name);
const messages = [{ role: 'user' as const, content: 'Hi' }];

describe('files', () => {
  it('are created, awaited, listed, read and deleted', async () => {
    const file = await client.files.create({
      file: trainingFile(),
      purpose: 'fine-tune',
      expires_after: { anchor: 'created_at', seconds: 3600 },
    });
    expect(file._request_id).toMatch(/^req_/);
    expect(file.expires_at).toBe(file.created_at + 3600);
    expect((await client.files.waitForProcessing(file.id, { pollInterval: 10 })).status).toBe('processed');
    expect((await client.files.retrieve(file.id)).filename).toBe('train.jsonl');
    expect(await (await client.files.content(file.id)).text()).toBe(TEN_ROWS);
    expect(await client.files.delete(file.id)).toEqual({ id: file.id, object: 'file', deleted: true });
    await expect(client.files.retrieve(file.id)).rejects.toBeInstanceOf(NotFoundError);
  });

  it('are paged by the SDK, also while they are being deleted', async () => {
    const ids = new Set<string>();
    for (let i = 0; i < 5; i++) {
      ids.add((await client.files.create({ file: new File(['x'], `${i}.txt`), purpose: 'user_data' })).id);
    }
    const seen = new Set<string>();
    for await (const file of client.files.list({ limit: 2, purpose: 'user_data' })) {
      seen.add(file.id);
      await client.files.delete(file.id);
    }
    expect(seen).toEqual(ids);
  });

  it('are refused with the line that is wrong', async () => {
    const upload = client.files.create({ file: new File(['{}\n{oops\n'], 'a.jsonl'), purpose: 'fine-tune' });
    await expect(upload).rejects.toThrow(/Line 2 is not a dictionary/);
    await expect(upload).rejects.toBeInstanceOf(BadRequestError);
  });
});

describe('fine-tuning jobs', () => {
  it('are created as the SDK sends them, listed, followed and cancelled', async () => {
    const training_file = (await client.files.create({ file: trainingFile(), purpose: 'fine-tune' })).id;
    const validation_file = (
      await client.files.create({ file: trainingFile('valid.jsonl'), purpose: 'fine-tune' })
    ).id;
    const job = await client.fineTuning.jobs.create({
      model: BASE_MODEL,
      training_file,
      validation_file,
      suffix: 'sdk',
      seed: 7,
      metadata: { run: 'sdk' },
      method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 2, batch_size: 'auto' } } },
    });
    expect(job).toMatchObject({
      object: 'fine_tuning.job',
      seed: 7,
      error: null,
      result_files: [],
      status: 'validating_files',
    });
    expect((await client.fineTuning.jobs.retrieve(job.id)).id).toBe(job.id);
    const listed = await client.fineTuning.jobs.list({ metadata: { run: 'sdk' } });
    expect(listed.data.map((each) => each.id)).toEqual([job.id]);
    expect((await client.fineTuning.jobs.list({ metadata: null })).data).toEqual([]);
    const events = await client.fineTuning.jobs.listEvents(job.id, { limit: 1 });
    expect(events.data[0]?.message).toContain(job.id);
    expect((await client.fineTuning.jobs.cancel(job.id)).status).toBe('cancelled');
  });

  it('tell what is wrong by code and parameter, and are not sent again', async () => {
    const before = t.logged.length;
    const create = client.fineTuning.jobs.create({
      model: BASE_MODEL,
      training_file: 'file-x',
      hyperparameters: { n_epochs: 0 },
    });
    await expect(create).rejects.toMatchObject({
      status: 400,
      code: 'integer_below_min_value',
      param: 'hyperparameters.n_epochs',
      type: 'invalid_request_error',
      requestID: expect.stringMatching(/^req_/),
    });
    await expect(client.fineTuning.jobs.cancel('ftjob-x')).rejects.toBeInstanceOf(NotFoundError);
    const requests = t.logged.slice(before).filter((line) => line.includes('"request"'));
    expect(requests).toHaveLength(2);
  });

  it('list checkpoints, which are models', async () => {
    const model = await addTunedModel(t, t.alice, { tail: 'sdk00000', checkpoint: true, step: 4 });
    for (const step of [2, 3, 4]) {
      await addCheckpoint(
        t,
        t.alice,
        model.jobId,
        step,
        step === 4 ? model.id : `ft:x:acme::${step}aaaaaaa:ckpt-step-${step}`,
      );
    }
    const steps: number[] = [];
    for await (const checkpoint of client.fineTuning.jobs.checkpoints.list(model.jobId, { limit: 1 })) {
      steps.push(checkpoint.step_number);
    }
    expect(steps).toEqual([4, 3, 2]);
  });
});

describe('models', () => {
  it('are listed, retrieved and deleted by names with : and /', async () => {
    const tuned = await addTunedModel(t, t.alice, { tail: 'sdkmodel', checkpoint: true, step: 9 });
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    expect(ids).toEqual(expect.arrayContaining([BASE_MODEL, tuned.id]));
    expect((await client.models.retrieve(BASE_MODEL)).owned_by).toBe('lathe');
    expect((await client.models.retrieve(tuned.id)).id).toBe(tuned.id);
    expect(await client.models.delete(tuned.id)).toMatchObject({ id: tuned.id, deleted: true });
    await expect(client.models.retrieve(tuned.id)).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
      param: 'model',
    });
  });
});

describe('chat completions', () => {
  it('answer whole', async () => {
    worker.script = answerOf(['Hel', 'lo']);
    const completion = await client.chat.completions.create({
      model: BASE_MODEL,
      messages,
      temperature: 0,
      logprobs: true,
    });
    expect(completion.choices[0]?.message.content).toBe('Hello');
    expect(completion.choices[0]?.logprobs?.content?.map((token) => token.token)).toEqual(['Hel', 'lo']);
    expect(completion.usage?.total_tokens).toBe(9);
  });

  it('answer in a stream', async () => {
    worker.script = answerOf(['a', 'b', 'c']);
    const stream = await client.chat.completions.create({
      model: BASE_MODEL,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = '';
    let usage: unknown;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage ?? usage;
    }
    expect([text, usage]).toEqual(['abc', expect.objectContaining({ completion_tokens: 3 })]);
  });

  it("work with the SDK's stream helper and its events", async () => {
    worker.script = answerOf(['x', 'y']);
    const runner = client.chat.completions.stream({ model: BASE_MODEL, messages });
    const deltas: string[] = [];
    runner.on('content', (delta) => deltas.push(delta));
    expect((await runner.finalChatCompletion()).choices[0]?.message.content).toBe('xy');
    expect(deltas).toEqual(['x', 'y']);
  });

  it('break off in the middle as an error with its code', async () => {
    worker.script = [...answerOf(['a', 'b']).slice(0, 2), 20, 'break'];
    const stream = await client.chat.completions.create({ model: BASE_MODEL, messages, stream: true });
    const read = async () => {
      for await (const _ of stream);
    };
    await expect(read()).rejects.toMatchObject({ code: 'worker_lost', type: 'server_error' });
  });

  it('stop at the worker when the stream is left', async () => {
    worker.script = [
      ...answerOf(['a']).slice(0, 2),
      ...Array.from({ length: 100 }, () => [20, answerOf(['b'])[1]!]).flat(),
    ];
    const left = worker.left;
    const stream = await client.chat.completions.create({ model: BASE_MODEL, messages, stream: true });
    for await (const _ of stream) break;
    await expect.poll(() => worker.left).toBe(left + 1);
  });

  it('are repeated by the SDK when the server is busy, after the time it says', async () => {
    let calls = 0;
    worker.script = () => {
      calls += 1;
      return calls === 1
        ? {
            status: 429,
            type: 'rate_limit_error',
            code: 'rate_limit_exceeded',
            param: null,
            message: 'Busy.',
            retry_after_seconds: 1,
          }
        : answerOf(['ok']);
    };
    const started = performance.now();
    expect(
      (await client.chat.completions.create({ model: BASE_MODEL, messages })).choices[0]?.message.content,
    ).toBe('ok');
    expect(performance.now() - started).toBeGreaterThan(900);
    calls = 0;
    const once = client.chat.completions.create({ model: BASE_MODEL, messages }, { maxRetries: 0 });
    await expect(once).rejects.toBeInstanceOf(RateLimitError);
  });
});

describe('keys', () => {
  it('that are wrong are an authentication error', async () => {
    const stranger = new OpenAI({ apiKey: 'sk-lathe-wrong', baseURL: await t.serve() });
    await expect(stranger.models.list()).rejects.toBeInstanceOf(AuthenticationError);
    const upload = stranger.files.create({ file: trainingFile(), purpose: 'fine-tune' });
    await expect(upload).rejects.toBeInstanceOf(AuthenticationError);
    await expect(upload).rejects.not.toBeInstanceOf(APIConnectionError);
  });
});
