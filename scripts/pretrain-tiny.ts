/**
 * Trains models/lathe-tiny from scratch with Lathe's own engine on the generated corpus. Seeded, and resumable: a run
 * that is stopped goes on from its last checkpoint with the same result as an uninterrupted one.
 * Run: npm run pretrain:tiny -- [--steps N] [--threads N] [--isa NAME] [--out DIR] [--scratch DIR]
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Device, openDevice } from '../workers/engine/device.ts';
import { openSafetensors, writeSafetensors } from '../workers/engine/io/safetensors.ts';
import { accumulateGradients } from '../workers/engine/losses/supervised.ts';
import { createModel, type Model, readModelConfig } from '../workers/engine/models/index.ts';
import { AdamW, learningRateAt } from '../workers/engine/optim/index.ts';
import { scope } from '../workers/engine/tensor.ts';
import { loadTokenizer, type Tokenizer } from '../workers/engine/tokenizer/load.ts';
import { modelCard } from './tiny/model-card.ts';
import { probe } from './tiny/probe.ts';
import { stepBatches } from './tiny/training-data.ts';

const folder = fileURLToPath(new URL('../models/lathe-tiny', import.meta.url));

const { values: given } = parseArgs({
  options: {
    steps: { type: 'string', default: '4000' },
    packs: { type: 'string', default: '1' },
    'pack-tokens': { type: 'string', default: '2048' },
    'learning-rate': { type: 'string', default: '0.003' },
    seed: { type: 'string', default: '1' },
    threads: { type: 'string' },
    /** The shipped weights were made with this one; another rounds differently and gives other bytes. */
    isa: { type: 'string', default: 'avx512' },
    out: { type: 'string', default: folder },
    scratch: { type: 'string', default: join(folder, '../../.lathe/pretrain-tiny') },
    'log-every': { type: 'string', default: '20' },
    'checkpoint-every': { type: 'string', default: '200' },
  },
});

const plan = {
  steps: Number(given.steps),
  size: { packs: Number(given.packs), packTokens: Number(given['pack-tokens']), seed: Number(given.seed) },
  learningRate: Number(given['learning-rate']),
  warmupSteps: 100,
  /** The cosine's horizon, and the step from which the rate falls linearly to 0 instead. */
  cosineSteps: 4200,
  coolFrom: 2800,
  betas: [0.9, 0.98] as const,
  weightDecay: 0.01,
  maxGradNorm: 1,
};

const checkpointPath = join(given.scratch, 'checkpoint.safetensors');
const logPath = join(given.out, 'training-log.csv');

function rateAt(step: number): number {
  const { learningRate, warmupSteps, cosineSteps, coolFrom, steps } = plan;
  const schedule = { type: 'cosine', learningRate, warmupSteps, totalSteps: cosineSteps } as const;
  if (step < coolFrom) return learningRateAt(step, schedule);
  return (learningRateAt(coolFrom, schedule) * (steps - step)) / (steps - coolFrom);
}

/** Restores the optimizer (and with it the weights) and returns the next step; 0 when there is no checkpoint. */
function resume(device: Device, optimizer: AdamW): number {
  if (!existsSync(checkpointPath)) return 0;
  const file = openSafetensors(checkpointPath);
  if (file.metadata.plan !== JSON.stringify(plan)) {
    throw new Error(
      `${checkpointPath} belongs to a run with other settings; remove it or choose another --scratch`,
    );
  }
  const step = Number(file.metadata.step);
  scope(() => optimizer.loadState((name) => file.load(device, name), step));
  return step;
}

function saveCheckpoint(optimizer: AdamW, step: number): void {
  const metadata = { format: 'pt', step: String(step), plan: JSON.stringify(plan) };
  writeSafetensors(checkpointPath, optimizer.state(), metadata);
}

/** The log so far, without rows of steps that will be run again. */
function openLog(start: number): string[] {
  const head = 'step,tokens,loss,token_accuracy,learning_rate,gradient_norm';
  if (start === 0 || !existsSync(logPath)) return [head];
  return [head, ...readFileSync(logPath, 'utf8').trim().split('\n').slice(1)].filter(
    (row, i) => i === 0 || Number(row.split(',')[0]) <= start,
  );
}

function saveModel(model: Model): void {
  // The committed config.json and generation_config.json stay as they are; only the weights are written.
  writeSafetensors(join(given.out, 'model.safetensors'), model.parameters());
}

/** What was trained since the last row of the log. */
interface Window {
  tokens: number;
  lossSum: number;
  labelled: number;
  correct: number;
  began: number;
}

const newWindow = (): Window => ({
  tokens: 0,
  lossSum: 0,
  labelled: 0,
  correct: 0,
  began: performance.now(),
});

/** One optimizer step; its sums are added to `window`. @returns the gradients' norm before the clip */
function trainStep(
  { model, optimizer, tokenizer }: { model: Model; optimizer: AdamW; tokenizer: Tokenizer },
  step: number,
  window: Window,
): number {
  const { seed } = plan.size;
  const batches = stepBatches(tokenizer, step, plan.size);
  const labelledTotal = batches.reduce(
    (sum, b) => sum + b.targets.reduce((n, t) => n + (t >= 0 ? 1 : 0), 0),
    0,
  );
  optimizer.zeroGrad();
  batches.forEach((batch, microBatch) => {
    const sums = accumulateGradients(model, batch, { labelledTotal, seed, step, microBatch });
    window.lossSum += sums.lossSum;
    window.labelled += sums.labelled;
    window.correct += sums.correct;
    window.tokens += batch.ids.length;
  });
  const { gradNorm, applied } = optimizer.step(rateAt(step), { maxGradNorm: plan.maxGradNorm });
  if (!applied) throw new Error(`step ${step + 1}: the gradients are not finite`);
  return gradNorm;
}

/** Says how the steps since the last row went. @returns the row for the log */
function report(window: Window, done: number, tokensSeen: number, gradNorm: number): string {
  const loss = (window.lossSum / window.labelled).toFixed(4);
  const accuracy = (window.correct / window.labelled).toFixed(4);
  const speed = (window.tokens / (performance.now() - window.began)) * 1000;
  console.log(`step ${done}/${plan.steps} loss ${loss} accuracy ${accuracy} ${speed.toFixed(0)} tokens/s`);
  const rate = rateAt(done - 1).toExponential(3);
  return [done, tokensSeen, loss, accuracy, rate, gradNorm.toFixed(3)].join(',');
}

function main(): void {
  mkdirSync(given.out, { recursive: true });
  mkdirSync(given.scratch, { recursive: true });
  const threads = given.threads === undefined ? undefined : Number(given.threads);
  const device = openDevice({ threads, isa: given.isa });
  const tokenizer = loadTokenizer(folder);
  const config = readModelConfig(JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')));
  const model = createModel(config, device, { dtype: 'bf16', seed: plan.size.seed, trainable: true });
  const { betas, weightDecay } = plan;
  const optimizer = new AdamW(model.trainableParameters(), { betas, weightDecay });
  const start = resume(device, optimizer);
  const log = openLog(start);
  console.log(`${device.name}, ${model.counts().total} parameters, steps ${start} to ${plan.steps}`);

  let window = newWindow();
  let tokensSeen = log.length > 1 ? Number(log[log.length - 1]!.split(',')[1]) : 0;
  for (let step = start; step < plan.steps; step++) {
    const gradNorm = trainStep({ model, optimizer, tokenizer }, step, window);
    const done = step + 1;
    const last = done === plan.steps;
    if (done % Number(given['log-every']) === 0 || last) {
      tokensSeen += window.tokens;
      log.push(report(window, done, tokensSeen, gradNorm));
      window = newWindow();
    }
    if (done % Number(given['checkpoint-every']) === 0 || last) {
      saveCheckpoint(optimizer, done);
      saveModel(model);
      writeFileSync(logPath, `${log.join('\n')}\n`);
      console.log(JSON.stringify(probe(model, tokenizer)));
      window.began = performance.now();
    }
  }
  const result = probe(model, tokenizer, 200);
  console.log(JSON.stringify(result));
  writeFileSync(
    join(given.out, 'README.md'),
    modelCard({ log, probe: result, steps: plan.steps, schedule: plan, parameters: model.counts().total }),
  );
}

main();
