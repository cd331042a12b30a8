import { pino } from 'pino';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import type { ResolvedHyperparameters } from '../../src/domain/jobs/hyperparameters.ts';
import { message } from '../../src/queue/queue.ts';
import type { StepDone } from '../../workers/trainer/messages.ts';
import { endsEpoch, planOf } from '../../workers/trainer/plan.ts';
import { ProgressWriter, stepEvent } from '../../workers/trainer/progress.ts';
import { isTransient, untilDone } from '../../workers/trainer/retry.ts';
import { CSV_HEADER, StepMetrics } from '../../workers/trainer/step-metrics.ts';
import { useDatabase } from '../helpers/database.ts';
import { createJob, createTenant, eventsOf, heldBy, jobRow } from '../queue/fixture.ts';

const holder = useDatabase();
const log = pino({ level: 'silent' });
let tenant: Awaited<ReturnType<typeof createTenant>>;
beforeAll(async () => {
  tenant = await createTenant(holder.database);
});

const STEP: StepDone = {
  type: 'step',
  step: 299,
  totalSteps: 300,
  epoch: 2.99,
  trainedTokens: 1000,
  train: {
    loss: 0.004,
    accuracy: 0.5,
    tokensPerSecond: 900,
    learningRate: 1e-3,
    gradNorm: 0.1,
    etaSeconds: 2,
  },
  validation: null,
  fullValidation: null,
};

describe('stepEvent', () => {
  it("has OpenAI's message and data keys, and ours", () => {
    expect(stepEvent(STEP)).toMatchObject({
      level: 'info',
      type: 'metrics',
      message: 'Step 299/300: training loss=0.00',
    });
    expect(stepEvent(STEP).data).toEqual({
      step: 299,
      train_loss: 0.004,
      total_steps: 300,
      train_mean_token_accuracy: 0.5,
      learning_rate: 1e-3,
      grad_norm: 0.1,
      tokens_per_second: 900,
      epoch: 2.99,
      eta_seconds: 2,
    });
  });

  it('adds what was measured on the validation file', () => {
    const event = stepEvent({
      ...STEP,
      validation: { loss: 0.125, accuracy: 0.75 },
      fullValidation: { loss: 1.5, accuracy: 0.25 },
    });
    expect(event.message).toBe(
      'Step 299/300: training loss=0.00, validation loss=0.13, full validation loss=1.50',
    );
    expect(event.data).toMatchObject({
      valid_loss: 0.125,
      valid_mean_token_accuracy: 0.75,
      full_valid_loss: 1.5,
      full_valid_mean_token_accuracy: 0.25,
    });
  });

  it('tells the measurement before training', () => {
    const event = stepEvent({
      ...STEP,
      step: 0,
      epoch: 0,
      train: null,
      fullValidation: { loss: 4.25, accuracy: 0.01 },
    });
    expect(event).toMatchObject({
      type: 'message',
      message: 'Before training: full validation loss=4.25',
      data: { step: 0, total_steps: 300, full_valid_loss: 4.25, full_valid_mean_token_accuracy: 0.01 },
    });
  });
});

describe('StepMetrics', () => {
  it('writes one line a step, with empty cells for what was not measured, and continues its own text', () => {
    const metrics = StepMetrics.empty();
    metrics.add(1, { loss: 2.5, accuracy: 0.333333333 }, null);
    metrics.add(2, { loss: 1 / 3, accuracy: 1 }, { loss: 0.1, accuracy: 0 });
    const text = `${CSV_HEADER}\n1,2.5,0.33333,,\n2,0.33333,1,0.1,0\n`;
    expect(metrics.text()).toBe(text);
    expect(StepMetrics.parse(text, 2).text()).toBe(text);
    expect(StepMetrics.parse(StepMetrics.empty().text(), 0).text()).toBe(`${CSV_HEADER}\n`);
    for (const [csv, steps] of [
      [text, 3],
      ['', 0],
      [text.replace('1,2.5', '7,2.5'), 2],
    ] as const) {
      expect(() => StepMetrics.parse(csv, steps)).toThrow('step_metrics.csv');
    }
  });
});

describe('planOf', () => {
  const resolved: ResolvedHyperparameters = {
    hyperparameters: { n_epochs: 3, batch_size: 4, learning_rate_multiplier: 1 },
    adapter: { peft_type: 'FULL' },
    trainer: {
      ...{
        learning_rate: 1e-3,
        lr_scheduler_type: 'linear',
        warmup_ratio: 0.1,
        warmup_steps: 0,
        max_steps: -1,
      },
      ...{ max_length: 64, overlong: 'truncate', max_tokens_per_pack: 64, weight_decay: 0, adam_beta1: 0.9 },
      ...{ adam_beta2: 0.99, adam_epsilon: 1e-8, max_grad_norm: 0, eval_steps: null, save_steps: null },
      ...{ logging_steps: 1, bf16: false },
    },
  };
  it('counts steps from epochs, and max_steps wins', () => {
    const plan = planOf(resolved, 7, 11);
    expect(plan).toMatchObject({ totalSteps: 33, stepsPerEpoch: 11, warmupSteps: 4, seed: 7, dtype: 'f32' });
    expect(plan.maxGradNorm).toBe(Number.POSITIVE_INFINITY);
    const short = planOf(
      { ...resolved, trainer: { ...resolved.trainer, max_steps: 15, warmup_steps: 2, max_grad_norm: 1 } },
      7,
      11,
    );
    expect(short).toMatchObject({ totalSteps: 15, warmupSteps: 2, maxGradNorm: 1 });
    expect([10, 11, 12, 15].map((step) => endsEpoch(short, step))).toEqual([false, true, false, true]);
  });
});

describe('ProgressWriter', () => {
  const open = async (leaseFor = 'w') => {
    const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy(leaseFor) });
    const onError = vi.fn();
    const writer = new ProgressWriter(
      holder.database,
      { jobId: id, epoch: 1, workerId: 'w' },
      new AbortController().signal,
      log,
      onError,
    );
    return { id, writer, onError };
  };

  it('keeps the order of events and other writes, and writes in batches', async () => {
    const { id, writer } = await open();
    const execute = vi.spyOn(holder.database.db, 'execute');
    const seen: number[] = [];
    for (let i = 0; i < 100; i += 1) writer.add(message('info', `${i}`), { trainedTokens: i });
    const between = writer.inTurn(async () => seen.push((await eventsOf(holder.database, id)).length));
    for (let i = 100; i < 150; i += 1) writer.add(message('info', `${i}`), { trainedTokens: i });
    await Promise.all([between, writer.flush()]);
    expect(execute.mock.calls.length).toBe(2);
    execute.mockRestore();
    expect(seen).toEqual([101]);
    expect((await eventsOf(holder.database, id)).slice(1).map((e) => e.message)).toEqual(
      Array.from({ length: 150 }, (_, i) => `${i}`),
    );
    expect((await jobRow(holder.database, id)).trainedTokens).toBe(149);
  });

  it('writes by itself soon', async () => {
    const { id, writer } = await open();
    writer.add(message('info', 'alone'));
    await vi.waitFor(async () => expect(await eventsOf(holder.database, id)).toHaveLength(2), 2000);
  });

  it('reports a lost lease once and fails everything behind it', async () => {
    const { writer, onError } = await open('other');
    writer.add(message('info', 'too late'));
    await vi.waitFor(() => expect(onError).toHaveBeenCalledTimes(1), 2000);
    expect(onError.mock.calls[0]![0]).toMatchObject({ name: 'LeaseLost' });
    await expect(writer.flush()).rejects.toMatchObject({ name: 'LeaseLost' });
  });
});

describe('untilDone', () => {
  const refused = () =>
    Object.assign(new Error('x'), { cause: Object.assign(new Error('y'), { code: 'ECONNREFUSED' }) });

  it('repeats what may work later, and nothing else', async () => {
    let calls = 0;
    const signal = new AbortController().signal;
    const result = await untilDone(
      signal,
      async () => (++calls < 3 ? Promise.reject(refused()) : 'done'),
      () => {},
    );
    expect([result, calls]).toEqual(['done', 3]);
    await expect(
      untilDone(
        signal,
        () => Promise.reject(new Error('bug')),
        () => {},
      ),
    ).rejects.toThrow('bug');
    const failed = (code: string) =>
      new Error('query failed', { cause: Object.assign(new Error('pg'), { code }) });
    for (const code of ['57P01', '08006', '53300', '40P01']) expect(isTransient(failed(code))).toBe(true);
    expect(
      isTransient(
        new Error('Failed query: rollback', {
          cause: new Error('Client has encountered a connection error and is not queryable'),
        }),
      ),
    ).toBe(true);
    for (const code of ['23505', '22P02', '42601']) expect(isTransient(failed(code))).toBe(false);
  });

  it('ends with the reason when the attempt is over', async () => {
    const over = new AbortController();
    const waiting = untilDone(
      over.signal,
      () => Promise.reject(refused()),
      () => over.abort(new Error('lost')),
    );
    await expect(waiting).rejects.toThrow('lost');
  });
});
