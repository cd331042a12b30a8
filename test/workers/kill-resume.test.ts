/**
 * SIGKILL at random steps, of the child and of the supervisor: the job ends as if nothing had happened, byte for byte.
 * The steps differ from run to run and are in the names of the tests.
 */
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { type JobRequest, type JobView, spoil, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

const STEPS = 24;
const REQUEST: JobRequest = {
  training: chatLines(30),
  validation: chatLines(5, 100),
  hyperparameters: { n_epochs: 3, batch_size: 4 },
  adapter: { r: 4, lora_dropout: 0.2, use_rslora: true },
  // Packs smaller than a batch: several micro-batches a step.
  trainer: {
    learning_rate: 0.01,
    save_steps: 3,
    eval_steps: 5,
    max_tokens_per_pack: 64,
    max_length: 64,
    weight_decay: 0.01,
  },
};

/** Distinct steps in rising order. */
function randomSteps(count: number): number[] {
  const chosen = new Set<number>();
  while (chosen.size < count) chosen.add(1 + Math.floor(Math.random() * STEPS));
  return [...chosen].sort((a, b) => a - b);
}

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 150_000, hookTimeout: 150_000 });

const service = useTestService('bf16');
let whole: JobView;
let wholeCsv: string;
beforeAll(async () => {
  whole = await service.run(REQUEST);
  expect(whole.row).toMatchObject({
    status: 'succeeded',
    progress: { step: STEPS, total_steps: STEPS },
    error: null,
  });
  wholeCsv = await service.resultFile(whole.row.resultFiles[0]!);
});

/** Metrics events without what depends on the clock. */
const metricsOf = (view: JobView) =>
  view.events
    .filter((event) => event.type === 'metrics')
    .map(({ message, data }) => {
      const { tokens_per_second: _, eta_seconds: __, ...rest } = data as Record<string, number>;
      return { message, ...rest };
    });

/** Equal to the uninterrupted job in everything that a user gets. */
async function expectSameResult(view: JobView): Promise<void> {
  expect(view.row).toMatchObject({
    status: 'succeeded',
    error: null,
    trainedTokens: whole.row.trainedTokens,
  });
  expect(view.models.map((m) => [m.step, m.isCheckpoint, m.digest])).toEqual(
    whole.models.map((m) => [m.step, m.isCheckpoint, m.digest]),
  );
  expect(view.models.at(-1)!.files).toEqual(whole.models.at(-1)!.files);
  expect(await service.resultFile(view.row.resultFiles[0]!)).toBe(wholeCsv);
  expect(metricsOf(view)).toEqual(metricsOf(whole));
  expect(view.events.map((event) => event.seq)).toEqual(view.events.map((_, i) => i + 1));
  const last = view.events.slice(-2).map((event) => event.message);
  expect(last).toEqual([
    `New fine-tuned model created: ${view.row.fineTunedModel}`,
    'The job has successfully completed',
  ]);
  expect(view.events.filter((event) => event.message === 'Fine-tuning job started')).toHaveLength(1);
}

describe('kill -9 of the child', () => {
  const steps = randomSteps(5);
  it(`at steps ${steps.join(', ')} of ${STEPS}`, async () => {
    const id = await service.createJob(REQUEST);
    await service.runQueue({ failpoints: steps.map((step, i) => `child.step.${step}@${i + 1}=kill`) });
    const view = await service.view(id);
    expect(view.row.attempts).toBe(6);
    const interruptions = view.events.filter((event) => event.level === 'warn').map((event) => event.message);
    expect(interruptions).toEqual(
      steps.map(
        () => 'The worker was interrupted (signal SIGKILL); the job will continue from its last checkpoint',
      ),
    );
    await expectSameResult(view);
  });
});

describe('kill -9 of the supervisor', () => {
  const steps = randomSteps(5);
  it(`at steps ${steps.join(', ')} of ${STEPS}`, async () => {
    const id = await service.createJob(REQUEST);
    for (const [i, step] of steps.entries()) {
      const { exited } = service.startTrainer(['--failpoint', `supervisor.step.${step}@${i + 1}=kill`]);
      expect(await exited).toMatchObject({ signal: 'SIGKILL' });
      // One lease in five runs out by the clock.
      if (i > 0) await service.expireLease(id);
    }
    const { child, exited } = service.startTrainer();
    const view = await service.waitFor(
      id,
      ({ row }) => row.status === 'succeeded' || row.status === 'failed',
    );
    child.kill('SIGTERM');
    expect(await exited).toMatchObject({ code: 0, signal: null });
    expect(view.row.attempts).toBe(6);
    await expectSameResult(view);
  }, 150_000);
});

describe('kill -9 around a commit', () => {
  it.each([
    ['child', 'checkpoint.6.after_files'],
    ['child', 'checkpoint.6.before_rename'],
    ['child', 'checkpoint.6.after_rename'],
    ['child', 'child.prepared'],
  ])('of the %s: %s', async (_, point) => {
    const id = await service.createJob(REQUEST);
    await service.runQueue({ failpoints: [`${point}@1=kill`] });
    const view = await service.view(id);
    expect(view.row.attempts).toBe(2);
    await expectSameResult(view);
  });

  it('of the supervisor: an upload before and after its row, a publish before and after its commit', async () => {
    const id = await service.createJob(REQUEST);
    const points = ['upload.6.before_row', 'upload.9.after_row', 'publish.before_commit'];
    for (const [i, point] of points.entries()) {
      const { exited } = service.startTrainer(['--failpoint', `${point}@${i + 1}=kill`]);
      expect(await exited).toMatchObject({ signal: 'SIGKILL' });
      const { row, models } = await service.view(id);
      expect(row).toMatchObject({ status: 'running', fineTunedModel: null });
      expect(models.filter((model) => !model.isCheckpoint)).toEqual([]);
      await service.expireLease(id);
    }
    const { exited } = service.startTrainer(['--failpoint', 'publish.after_commit=kill']);
    expect(await exited).toMatchObject({ signal: 'SIGKILL' });
    const view = await service.view(id);
    expect(view.row.attempts).toBe(4);
    await expectSameResult(view);
  }, 150_000);
});

describe('a full fine-tune in bf16', () => {
  it('resumes with its f32 master weights, byte for byte', async () => {
    const request: JobRequest = {
      training: chatLines(12),
      adapter: { peft_type: 'FULL' },
      hyperparameters: { n_epochs: 2, batch_size: 2 },
      trainer: { learning_rate: 0.001, save_steps: 2, max_length: 64 },
    };
    const digests: string[] = [];
    for (const failpoints of [[], ['child.step.5@1=kill']]) {
      const id = await service.createJob(request);
      await service.runQueue({ failpoints });
      const { row, models } = await service.view(id);
      expect(row).toMatchObject({
        status: 'succeeded',
        attempts: 1 + failpoints.length,
        trainer: { bf16: true },
      });
      digests.push(models.at(-1)!.digest);
    }
    expect(digests[1]).toBe(digests[0]);
  });
});

describe('a damaged checkpoint', () => {
  it('is passed over for the one before it, with a warning, and made again', async () => {
    const id = await service.createJob(REQUEST);
    const leave = new AbortController();
    // Dies at step 14, and this trainer leaves before it would take the job again.
    const running = service.runQueue({
      config: { crashBackoffSeconds: [2] },
      drain: leave.signal,
      failpoints: ['child.step.14@1=kill'],
    });
    const before = await service.waitFor(id, ({ row }) => row.crashes === 1);
    leave.abort();
    await running;
    const newest = before.checkpoints.findLast((c) => c.deletedAt === null)!;
    expect(newest.step).toBe(12);
    await spoil(service.storage, `${newest.storagePrefix}/optimizer.safetensors`);
    await service.runQueue();
    const view = await service.view(id);
    const told = view.events.map((event) => event.message);
    expect(told).toContain(
      'The checkpoint of step 12 could not be read back (optimizer.safetensors in storage is not what was stored there); using an earlier one',
    );
    expect(told).toContain('Continuing from the checkpoint of step 9');
    await expectSameResult(view);
  });
});
