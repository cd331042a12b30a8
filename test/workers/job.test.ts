/** One job from its row to its result: events, metrics, files, models. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { openModel } from '../../workers/engine/models/index.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { digestOf } from '../../workers/trainer/checkpoint.ts';
import { BASE_MODEL, type JobView, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every job starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 });

const service = useTestService();

const messages = (view: JobView) => view.events.map((e) => e.message);

describe('a job that succeeds', () => {
  let view: JobView;
  beforeAll(async () => {
    view = await service.run({
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
    const again = await service.run(request);
    const other = await service.run({ ...request, seed: 8 });
    expect(again.models.at(-1)!.digest).toBe(view.models.at(-1)!.digest);
    expect(other.models.at(-1)!.digest).not.toBe(view.models.at(-1)!.digest);
  });
});

describe('a full fine-tune', () => {
  it('publishes a folder that opens as a model of its own', async () => {
    const view = await service.run({
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
