/**
 * Preference jobs through the trainer: what they report, what they refuse, and that SIGKILL, before and after the first
 * checkpoint, changes no byte of the result.
 */
import { eq } from 'drizzle-orm';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { jobs } from '../../src/db/schema-jobs.ts';
import { type JobRequest, type JobView, useTestService } from './service.ts';
import { chatLines, preferenceLines } from './training-lines.ts';

const STEPS = 10;
const REQUEST: JobRequest = {
  method: 'dpo',
  training: preferenceLines(20),
  validation: preferenceLines(5, 100),
  hyperparameters: { n_epochs: 2, batch_size: 4, beta: 0.5 },
  adapter: { r: 4, lora_dropout: 0.1 },
  // Packs smaller than a batch: several micro-batches a step.
  trainer: { learning_rate: 0.02, save_steps: 3, eval_steps: 5, max_tokens_per_pack: 128, max_length: 64 },
};

vi.setConfig({ testTimeout: 150_000, hookTimeout: 150_000 });

const service = useTestService();
let whole: JobView;
let csv: string;
beforeAll(async () => {
  whole = await service.run(REQUEST);
  expect(whole.row).toMatchObject({ status: 'succeeded', error: null, progress: { total_steps: STEPS } });
  csv = await service.resultFile(whole.row.resultFiles[0]!);
});

const METRICS = ['rewards/chosen', 'rewards/rejected', 'rewards/accuracies', 'rewards/margins'];
const LOG_PROBS = ['logps/chosen', 'logps/rejected'];
const all = [...METRICS, ...LOG_PROBS];

const numbersOf = (view: JobView) =>
  view.events
    .filter((event) => event.type === 'metrics')
    .map(({ message, data }) => {
      const { tokens_per_second: _, eta_seconds: __, ...rest } = data as Record<string, number>;
      return { message, ...rest } as Record<string, number | string>;
    });

describe('a preference job', () => {
  it('starts at log 2, and the margin of the preferred answers rises', () => {
    const steps = numbersOf(whole);
    expect(steps).toHaveLength(STEPS);
    // Dropout makes the policy of step 1 differ from its reference, slightly.
    expect(steps[0]!.train_loss).toBeCloseTo(Math.log(2), 1);
    const last = steps.at(-1)!;
    expect(last['full_valid_rewards/margins']).toBeGreaterThan(0.2);
    expect(last['full_valid_rewards/accuracies']).toBe(1);
    expect(last.full_valid_loss).toBeLessThan(0.6);
    const before = whole.events.find((event) => event.message.startsWith('Before training'))!.data;
    expect(before.full_valid_loss).toBeCloseTo(Math.log(2), 12);
    expect(before['full_valid_rewards/margins']).toBe(0);
  });

  it('reports every metric in events, checkpoints and the result file', () => {
    const last = numbersOf(whole).at(-1)!;
    for (const name of all) {
      for (const key of [name, `valid_${name}`, `full_valid_${name}`]) {
        expect(last[key], key).toEqual(expect.any(Number));
        expect(whole.checkpoints.find(({ step }) => step === STEPS)!.metrics[key]).toBe(last[key]);
      }
    }
    expect(last['rewards/margins']).toBeCloseTo(
      Number(last['rewards/chosen']) - Number(last['rewards/rejected']),
      12,
    );
    const lines = csv
      .trimEnd()
      .split('\n')
      .map((line) => line.split(','));
    expect(lines[0]).toEqual([
      ...['step', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_mean_token_accuracy'],
      ...all,
      ...all.map((name) => `valid_${name}`),
    ]);
    expect(lines).toHaveLength(1 + STEPS);
    const margins = lines[0]!.indexOf('rewards/margins');
    expect(Number(lines[STEPS]![margins])).toBeCloseTo(Number(last['rewards/margins']), 4);
    expect(lines[1]![lines[0]!.indexOf('valid_rewards/margins')]).toBe('');
  });

  it('echoes its numbers, auto ones by the stated rule', async () => {
    expect(whole.row.method).toEqual({
      type: 'dpo',
      dpo: { hyperparameters: { n_epochs: 2, batch_size: 4, learning_rate_multiplier: 1, beta: 0.5 } },
    });
    const { row } = await service.run({ ...REQUEST, hyperparameters: {}, trainer: { max_steps: 1 } });
    expect(row).toMatchObject({ status: 'succeeded' });
    expect(row.method).toEqual({
      type: 'dpo',
      dpo: { hyperparameters: { n_epochs: 3, batch_size: 1, learning_rate_multiplier: 1, beta: 0.1 } },
    });
    expect((row.trainer as { learning_rate: number }).learning_rate).toBeCloseTo(1e-4, 12);
  });

  it('trains whole models against their own start', async () => {
    const adapter = { peft_type: 'FULL' };
    const view = await service.run({
      ...REQUEST,
      adapter,
      trainer: { ...REQUEST.trainer, learning_rate: 0.01 },
    });
    expect(view.row).toMatchObject({ status: 'succeeded', error: null });
    const last = numbersOf(view).at(-1)!;
    expect(numbersOf(view)[0]!.train_loss).toBeCloseTo(Math.log(2), 6);
    expect(last['full_valid_rewards/margins']).toBeGreaterThan(0.2);
  });

  it('that continues from a tuned model has that model as its reference, before and after a kill', async () => {
    const model = whole.models.at(-1)!;
    const start = { kind: 'adapter' as const, storage_prefix: model.storagePrefix, files: model.files };
    const run = async (failpoints: string[]) => {
      const id = await service.createJob({ ...REQUEST, seed: 8 });
      await service.database.db.update(jobs).set({ startModel: model.id, start }).where(eq(jobs.id, id));
      await service.runQueue({ failpoints });
      return service.view(id);
    };
    const [second, killed] = [await run([]), await run(['child.step.4@1=kill'])];
    expect(second.row).toMatchObject({ status: 'succeeded', error: null });
    const before = second.events.find((event) => event.message.startsWith('Before training'))!.data;
    const ended = numbersOf(whole).at(-1)!;
    expect(before['full_valid_rewards/margins']).toBe(0);
    expect(before['full_valid_logps/chosen']).toBe(ended['full_valid_logps/chosen']);
    expect(numbersOf(second).at(-1)!['full_valid_rewards/margins']).toBeGreaterThan(0.05);
    expect(killed.row).toMatchObject({ status: 'succeeded', attempts: 2 });
    expect(killed.models.at(-1)!.digest).toBe(second.models.at(-1)!.digest);
  });

  it('publishes an adapter without the training state', () => {
    const names = whole.models.at(-1)!.files.map(({ name }) => name);
    expect(names).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
  });
});

describe('kill -9 of the child', () => {
  it('before the first checkpoint and at steps 4 and 9: the same bytes', async () => {
    const id = await service.createJob(REQUEST);
    const failpoints = [2, 4, 9].map((step, i) => `child.step.${step}@${i + 1}=kill`);
    await service.runQueue({ failpoints });
    const view = await service.view(id);
    expect(view.row).toMatchObject({ status: 'succeeded', error: null, attempts: 4 });
    expect(view.models.map((m) => [m.step, m.digest])).toEqual(whole.models.map((m) => [m.step, m.digest]));
    expect(view.models.at(-1)!.files).toEqual(whole.models.at(-1)!.files);
    expect(await service.resultFile(view.row.resultFiles[0]!)).toBe(csv);
    expect(numbersOf(view)).toEqual(numbersOf(whole));
  });
});

describe('files of the wrong format', () => {
  it.each([
    [
      'chat rows for dpo',
      { method: 'dpo', training: chatLines(12) },
      "the specified fine-tuning job is not using 'supervised' as the training method (provided method=dpo).",
    ],
    [
      'preference rows for supervised',
      { method: 'supervised', training: preferenceLines(12) },
      "the specified fine-tuning job is not using 'dpo' as the training method (provided method=supervised).",
    ],
  ] as const)('%s fail the job with the file named', async (_name, request, message) => {
    const { row } = await service.run(request);
    expect(row).toMatchObject({
      status: 'failed',
      error: { code: 'invalid_training_file', param: 'training_file' },
    });
    expect(row.error!.message).toContain(`Input file ${row.trainingFile} is in the `);
    expect(row.error!.message).toContain(message);
  });

  it('rows of no format for dpo', async () => {
    const id = await service.createJob({ method: 'dpo', training: '{"text":"x"}\n'.repeat(12) });
    await service.runQueue();
    expect((await service.view(id)).row.error).toEqual({
      code: 'invalid_file_format',
      message:
        "The job failed due to a file format error in the training file. Invalid file format. Example 1 is missing key 'input'.",
      param: 'training_file',
    });
  });
});
