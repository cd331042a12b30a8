/** One job from its row to its result: events, metrics, files, models, and what can go wrong with it. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { baseModels } from '../../src/db/schema.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { openModel } from '../../workers/engine/models/index.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { digestOf } from '../../workers/trainer/checkpoint.ts';
import { useDatabase } from '../helpers/database.ts';
import { BASE_MODEL, chatLines, copyModel, type JobView, TestService } from './service.ts';

// Generous: every job starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 });

const holder = useDatabase();
let service: TestService;
beforeAll(async () => {
  service = await TestService.open(holder.database);
});
afterAll(() => service?.close());

const run = async (request: Parameters<TestService['createJob']>[0]): Promise<JobView> => {
  const id = await service.createJob(request);
  await service.runQueue();
  return service.view(id);
};
const messages = (view: JobView) => view.events.map((e) => e.message);

describe('a job that succeeds', () => {
  let view: JobView;
  beforeAll(async () => {
    view = await run({
      training: chatLines(20),
      validation: chatLines(6, 100),
      suffix: 'mine',
      hyperparameters: { n_epochs: 4, batch_size: 8 },
      adapter: { r: 4, lora_dropout: 0.1 },
      trainer: { learning_rate: 0.01, eval_steps: 2, max_length: 64, lr_scheduler_type: 'cosine' },
    });
  });

  it('tells its story in events, in order and without gaps', () => {
    const { row, events, models } = view;
    expect(row.error).toBeNull();
    const told = messages(view).map((text) => text.replaceAll(/=\d+\.\d\d/g, '=#'));
    const checkpoint = (step: number) => {
      const name = models.find((m) => m.step === step)?.id ?? 'retired';
      return `Checkpoint created at step ${step} with Snapshot ID: ${name}`;
    };
    const steps = Array.from({ length: 12 }, (_, i) => {
      const step = i + 1;
      const batch = step % 2 === 0 || step % 3 === 0 ? ', validation loss=#' : '';
      const full = step % 3 === 0 ? ', full validation loss=#' : '';
      return `Step ${step}/12: training loss=#${batch}${full}`;
    });
    expect(told.filter((text) => !text.startsWith('Checkpoint'))).toEqual([
      `Created fine-tuning job: ${row.id}`,
      `Validating training file: ${row.trainingFile} and validation file: ${row.validationFile}`,
      'Files validated, moving job to queued state',
      'Fine-tuning job started',
      'Before training: full validation loss=#',
      ...steps,
      `New fine-tuned model created: ${row.fineTunedModel}`,
      'The job has successfully completed',
    ]);
    const announced = told.filter((text) => text.startsWith('Checkpoint'));
    expect(announced.slice(1)).toEqual([checkpoint(6), checkpoint(9)]);
    expect(announced[0]).toMatch(
      /^Checkpoint created at step 3 with Snapshot ID: ft:tiny\/random:acme:mine:\w{8}:ckpt-step-3$/,
    );
    for (const step of [3, 6, 9]) {
      const at = (prefix: string) => told.findIndex((text) => text.startsWith(prefix));
      expect(at(`Checkpoint created at step ${step} `)).toBeGreaterThan(at(`Step ${step}/12`));
    }
    expect(events.map((e) => e.seq)).toEqual(events.map((_, i) => i + 1));
    expect(row.eventSeq).toBe(events.length);
    expect(new Set(events.map((e) => e.id)).size).toBe(events.length);
  });

  it('has metrics events with the numbers of each step', () => {
    const metrics = view.events.filter((e) => e.type === 'metrics').map((e) => e.data);
    const before = view.events.find((e) => e.message.startsWith('Before training'))!;
    expect(before.type).toBe('message');
    expect(Object.keys(before.data).sort()).toEqual([
      'full_valid_loss',
      'full_valid_mean_token_accuracy',
      'step',
      'total_steps',
    ]);
    expect(before.data.full_valid_loss).toBeCloseTo(Math.log(2048), 0);
    expect(metrics.map((m) => m.step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    expect(metrics[0]).toMatchObject({ step: 1, total_steps: 12, epoch: 1 / 3, learning_rate: 0 });
    for (const m of metrics) {
      for (const key of [
        'train_loss',
        'train_mean_token_accuracy',
        'tokens_per_second',
        'grad_norm',
        'eta_seconds',
      ]) {
        expect(m[key]).toEqual(expect.any(Number));
      }
    }
    expect(metrics[11]!.train_loss as number).toBeLessThan(metrics[0]!.train_loss as number);
    expect(metrics[11]!.full_valid_loss as number).toBeLessThan(before.data.full_valid_loss as number);
    expect(metrics[11]!.eta_seconds).toBe(0);
  });

  it('echoes every number in force', () => {
    expect(view.row.method).toEqual({
      type: 'supervised',
      supervised: { hyperparameters: { n_epochs: 4, batch_size: 8, learning_rate_multiplier: 1 } },
    });
    expect(view.row.adapter).toMatchObject({
      peft_type: 'LORA',
      r: 4,
      lora_alpha: 8,
      lora_dropout: 0.1,
      target_modules: 'all-linear',
    });
    expect(view.row.trainer).toMatchObject({
      learning_rate: 0.01,
      eval_steps: 2,
      max_length: 64,
      warmup_ratio: 0.03,
      bf16: false,
      logging_steps: 1,
    });
  });

  it('ends with its figures on the row and nothing of the queue left', () => {
    const { row } = view;
    expect(row).toMatchObject({
      ...{
        status: 'succeeded',
        workerId: null,
        leaseUntil: null,
        epoch: 1,
        attempts: 1,
        crashes: 0,
        estimatedFinish: null,
      },
      progress: { step: 12, total_steps: 12, epoch: 4 },
    });
    expect(row.fineTunedModel).toMatch(/^ft:tiny\/random:acme:mine:[0-9A-Za-z]{8}$/);
    expect(row.startedAt!.getTime()).toBeGreaterThanOrEqual(row.createdAt.getTime());
    expect(row.finishedAt!.getTime()).toBeGreaterThanOrEqual(row.startedAt!.getTime());
    const perEpoch = (
      service.log.find((line) => line.msg === 'the data is valid') as { training: { tokens: number } }
    ).training.tokens;
    expect(row.trainedTokens).toBe(4 * perEpoch);
  });

  it('keeps the last three epochs as checkpoints; the last carries the model name', () => {
    const alive = view.checkpoints.filter((c) => c.deletedAt === null);
    expect(alive.map((c) => [c.step, c.kind])).toEqual([
      [6, 'epoch'],
      [9, 'epoch'],
      [12, 'epoch'],
    ]);
    expect(alive[2]!.modelName).toBe(view.row.fineTunedModel);
    expect(Object.keys(alive[1]!.metrics).sort()).toEqual([
      ...[
        'full_valid_loss',
        'full_valid_mean_token_accuracy',
        'step',
        'train_loss',
        'train_mean_token_accuracy',
      ],
      ...['valid_loss', 'valid_mean_token_accuracy'],
    ]);
    expect(view.models.map((m) => [m.step, m.isCheckpoint, m.kind])).toEqual([
      [6, true, 'adapter'],
      [9, true, 'adapter'],
      [12, false, 'adapter'],
    ]);
  });

  it('offers a checkpoint as a model as soon as it is announced, and takes it back when it is retired', () => {
    const [first, second] = [3, 6].map((step) => view.allModels.find((m) => m.step === step)!);
    const announced = view.events.find((e) => e.message.startsWith('Checkpoint created at step 6 '))!;
    expect(first!.deletedAt).not.toBeNull();
    expect(second!.deletedAt).toBeNull();
    expect(announced.message).toContain(second!.id);
    expect(second!.createdAt.getTime()).toBeLessThan(view.row.finishedAt!.getTime());
  });

  it('stores files that match their rows, and removes what was retired', async () => {
    for (const model of view.models) {
      expect(model.files.map((f) => f.name)).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
      expect(model.digest).toBe(digestOf(model.files));
      for (const file of model.files) {
        const bytes = Buffer.concat(
          await (await service.storage.get(`${model.storagePrefix}/${file.name}`)).toArray(),
        );
        expect(bytes.length).toBe(file.bytes);
        expect(createHash('sha256').update(bytes).digest('hex')).toBe(file.sha256);
      }
    }
    const prefix = `projects/${service.projectId}/jobs/${view.row.id}/e1`;
    expect(view.models.at(-1)!.storagePrefix).toBe(`${prefix}/model`);
    const folders = new Set<string>();
    for await (const { key } of service.storage.list(`${prefix}/`))
      folders.add(key.slice(prefix.length + 1).split('/')[0]!);
    expect([...folders].sort()).toEqual(['ckpt-12', 'ckpt-6', 'ckpt-9', 'model']);
    expect(
      readdirSync(service.root)
        .filter((name) => name.startsWith('scratch'))
        .flatMap((name) => readdirSync(path.join(service.root, name))),
    ).toEqual([]);
  });

  it('publishes an adapter that the engine loads and that has learned', async () => {
    const dir = path.join(service.root, 'published');
    const model = view.models.at(-1)!;
    for (const { name } of model.files) {
      const bytes = Buffer.concat(
        await (await service.storage.get(`${model.storagePrefix}/${name}`)).toArray(),
      );
      readdirSync(service.root).includes('published') || (await import('node:fs')).mkdirSync(dir);
      writeFileSync(path.join(dir, name), bytes);
    }
    const base = openModel(service.modelDir, openDevice(), { dtype: 'f32' });
    const adapter = LoraAdapter.load(dir, base);
    expect(adapter.config.r).toBe(4);
    const b = [...adapter.parameters()].find(([name]) => name.includes('lora_B'))![1].toFloat32();
    expect(b.some((value) => value !== 0)).toBe(true);
    expect(
      JSON.parse(readFileSync(path.join(dir, 'adapter_config.json'), 'utf8')).base_model_name_or_path,
    ).toBe(BASE_MODEL);
    adapter.dispose();
    base.dispose();
  });

  it('has step_metrics.csv as its result file', async () => {
    expect(view.row.resultFiles).toHaveLength(1);
    const lines = (await service.resultFile(view.row.resultFiles[0]!)).split('\n');
    expect(lines[0]).toBe('step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy');
    expect(lines).toHaveLength(14);
    expect(lines.at(-1)).toBe('');
    const metrics = view.events
      .filter((e) => e.type === 'metrics')
      .map((e) => e.data as Record<string, number>);
    for (let step = 1; step <= 12; step += 1) {
      const [number, loss, accuracy, validLoss, validAccuracy] = lines[step]!.split(',');
      expect(Number(number)).toBe(step);
      expect(Number(loss)).toBeCloseTo(metrics[step - 1]!.train_loss!, 5);
      expect(Number(accuracy)).toBeCloseTo(metrics[step - 1]!.train_mean_token_accuracy!, 5);
      if (step % 2 !== 0 && step % 3 !== 0) expect([validLoss, validAccuracy]).toEqual(['', '']);
      else expect(Number(validLoss)).toBeCloseTo(metrics[step - 1]!.valid_loss!, 5);
    }
  });

  it('the same seed gives the same bytes, another seed does not', async () => {
    const request = {
      training: chatLines(20),
      validation: chatLines(6, 100),
      hyperparameters: { n_epochs: 4, batch_size: 8 },
      adapter: { r: 4, lora_dropout: 0.1 },
      trainer: { learning_rate: 0.01, eval_steps: 2, max_length: 64, lr_scheduler_type: 'cosine' },
    };
    const again = await run(request);
    const other = await run({ ...request, seed: 8 });
    expect(again.models.at(-1)!.digest).toBe(view.models.at(-1)!.digest);
    expect(other.models.at(-1)!.digest).not.toBe(view.models.at(-1)!.digest);
  });
});

describe('rows that are too long', () => {
  const long = JSON.stringify({
    messages: [
      { role: 'user', content: 'Count' },
      { role: 'assistant', content: 'one two three '.repeat(100) },
    ],
  });

  it('are cut with a warning, left out, or refused, as asked', async () => {
    const training = `${chatLines(11)}${long}\n`;
    const ran = async (overlong: string) =>
      run({ training, trainer: { max_steps: 1, max_length: 64, overlong } });
    const [cut, dropped, refused] = [await ran('truncate'), await ran('drop'), await ran('error')];
    const warnings = (view: JobView) => view.events.filter((e) => e.level === 'warn').map((e) => e.message);
    expect(warnings(cut)).toEqual([
      'Training file: 1 examples were cut off at the end to fit the maximum length',
    ]);
    expect(warnings(dropped)).toEqual([
      'Training file: 1 examples were left out because they are longer than the maximum length',
    ]);
    expect([cut.row.status, dropped.row.status]).toEqual(['succeeded', 'succeeded']);
    expect(refused.row).toMatchObject({
      status: 'failed',
      error: { code: 'invalid_training_file', param: 'training_file' },
    });
    expect(refused.row.error!.message).toContain('Line 12');
  });
});

describe('auto', () => {
  it('is resolved by the rule and written back', async () => {
    const view = await run({ training: chatLines(40), trainer: { max_steps: 2 } });
    expect(view.row.method).toEqual({
      type: 'supervised',
      supervised: { hyperparameters: { n_epochs: 10, batch_size: 1, learning_rate_multiplier: 1 } },
    });
    expect(view.row).toMatchObject({
      status: 'succeeded',
      progress: { step: 2, total_steps: 2 },
      suffix: null,
    });
    expect(view.row.fineTunedModel).toMatch(/^ft:tiny\/random:acme::\w{8}$/);
    expect(view.row.trainer).toMatchObject({ learning_rate: 0.002, max_length: 128, warmup_ratio: 0.03 });
  });
});

describe('a full fine-tune', () => {
  it('publishes a folder that opens as a model of its own', async () => {
    const view = await run({
      training: chatLines(12),
      adapter: { peft_type: 'FULL' },
      hyperparameters: { n_epochs: 2, batch_size: 4 },
      trainer: { learning_rate: 0.01 },
    });
    expect(view.row).toMatchObject({ status: 'succeeded', adapter: { peft_type: 'FULL' } });
    const model = view.models.at(-1)!;
    expect(model.kind).toBe('full');
    expect(model.files.map((f) => f.name)).toEqual([
      ...[
        'chat_template.jinja',
        'config.json',
        'generation_config.json',
        'model.safetensors',
        'tokenizer.json',
      ],
      'tokenizer_config.json',
    ]);
    const dir = path.join(service.root, 'full');
    (await import('node:fs')).mkdirSync(dir);
    for (const { name } of model.files) {
      writeFileSync(
        path.join(dir, name),
        Buffer.concat(await (await service.storage.get(`${model.storagePrefix}/${name}`)).toArray()),
      );
    }
    const opened = openModel(dir, openDevice(), { dtype: 'f32' });
    expect(opened.config.layers).toBe(2);
    opened.dispose();
  });
});

describe('bad data', () => {
  it('fails with every line named, first the events, then the error', async () => {
    const lines = chatLines(12).split('\n');
    lines[2] = '{"messages": [{"role": "bot", "content": "x"}, {"role": "assistant", "content": "y"}]}';
    lines[6] = 'not json';
    const view = await run({ training: lines.join('\n') });
    const { row } = view;
    expect(row).toMatchObject({ status: 'failed', startedAt: null, workerId: null, fineTunedModel: null });
    expect(row.error).toEqual({
      code: 'invalid_training_file',
      message: messages(view).at(-1),
      param: 'training_file',
    });
    expect(row.error!.message).toMatch(
      /^The job failed due to an invalid training file\. Invalid file format\. Line 3, messages\[0\]/,
    );
    const errors = view.events.filter((e) => e.level === 'error');
    expect(errors.slice(0, -1).map((e) => (e.data as { line: number }).line)).toEqual([3, 7]);
    expect(errors[0]!.message).toMatch(/^Training file, line 3/);
    expect(messages(view)).not.toContain('Files validated, moving job to queued state');
    expect(view.models).toEqual([]);
  });

  it('names the validation file when that is the bad one', async () => {
    const view = await run({ training: chatLines(12), validation: 'oops\n' });
    expect(view.row.error).toMatchObject({ code: 'invalid_validation_file', param: 'validation_file' });
  });

  it('lists the first hundred errors and counts the rest', async () => {
    const view = await run({ training: 'x\n'.repeat(250) });
    const errors = view.events.filter((e) => e.level === 'error').map((e) => e.message);
    expect(errors).toHaveLength(102);
    expect(errors[100]).toBe('Training file: and 150 more errors');
    expect(view.row.error!.message).toContain('(and 249 more, see the events of this job)');
  });

  it("refuses fewer than ten examples in OpenAI's words", async () => {
    const view = await run({ training: chatLines(7) });
    expect(view.row.error).toEqual({
      code: 'invalid_n_examples',
      message: 'Training file has 7 example(s), but must have at least 10 examples',
      param: 'training_file',
    });
  });

  it('fails when the bytes in storage are not what was uploaded', async () => {
    const id = await service.createJob({ training: chatLines(12) });
    const { row } = await service.view(id);
    await service.storage.put(
      `projects/${service.projectId}/files/${row.trainingFile}`,
      Buffer.from(chatLines(12, 1)),
    );
    await service.runQueue();
    expect((await service.view(id)).row).toMatchObject({
      status: 'failed',
      error: { code: 'invalid_training_file' },
    });
  });
});

describe("what is not the data's fault", () => {
  const withModel = async (id: string, change: (dir: string) => void) => {
    const dir = path.join(service.root, id);
    copyModel(service.modelDir, dir);
    change(dir);
    const [base] = await holder.database.db.select().from(baseModels).where(eq(baseModels.id, BASE_MODEL));
    await holder.database.db.insert(baseModels).values({ ...base!, id, location: dir });
  };

  it('a loss that is not a number fails the job, names the step and publishes nothing', async () => {
    await withModel('poisoned', (dir) => {
      const file = path.join(dir, 'model.safetensors');
      const bytes = readFileSync(file);
      const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())).toString());
      const [start] = header['model.norm.weight'].data_offsets;
      bytes.writeFloatLE(Number.POSITIVE_INFINITY, 8 + Number(bytes.readBigUInt64LE()) + start);
      writeFileSync(file, bytes);
    });
    const view = await run({ training: chatLines(12), model: 'poisoned' });
    expect(view.row).toMatchObject({
      status: 'failed',
      crashes: 0,
      attempts: 1,
      fineTunedModel: null,
      error: { code: 'loss_diverged', param: null },
    });
    expect(view.row.error!.message).toMatch(
      /^Training diverged at step 1: the training loss is (NaN|Infinity)\. The step was not applied\./,
    );
    expect([view.models, view.checkpoints]).toEqual([[], []]);
  });

  it('a base model that cannot be opened fails the job, not the worker', async () => {
    await withModel('broken', (dir) => writeFileSync(path.join(dir, 'tokenizer.json'), '{'));
    const view = await run({ training: chatLines(12), model: 'broken' });
    expect(view.row).toMatchObject({
      status: 'failed',
      error: { code: 'base_model_invalid', param: 'model' },
    });
  });

  it('a job whose base model is not on this machine is left to others', async () => {
    const [base] = await holder.database.db.select().from(baseModels).where(eq(baseModels.id, BASE_MODEL));
    await holder.database.db.insert(baseModels).values({ ...base!, id: 'elsewhere', location: '/not/here' });
    const view = await run({ training: chatLines(12), model: 'elsewhere' });
    expect(view.row).toMatchObject({ status: 'validating_files', attempts: 0 });
    expect(existsSync('/not/here')).toBe(false);
  });

  it('too little memory fails the job with the estimate', async () => {
    const id = await service.createJob({ training: chatLines(12) });
    await service.runQueue({ memoryLimitBytes: 300_000 });
    const { row } = await service.view(id);
    expect(row).toMatchObject({ status: 'failed', error: { code: 'out_of_memory' } });
    expect(row.error!.message).toMatch(
      /did not fit into the worker's memory\. It was expected to need about \d/,
    );
  });
});
