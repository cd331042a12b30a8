/**
 * Fine-tunes models/lathe-tiny on the shipped example task with the engine alone, and scores base and tuned model on
 * the held-out rows: the check that the example teaches something visible within a minute.
 * Run: node scripts/tiny-tune.ts [--epochs N] [--batch N] [--learning-rate X] [--rank N] [--threads N] [--model DIR]
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { batchesOf, evaluationBatches, stepsPerEpoch } from '../workers/engine/data/batches.ts';
import type { Dataset } from '../workers/engine/data/dataset.ts';
import { concatenate } from '../workers/engine/data/pack.ts';
import { loadDataset } from '../workers/engine/data/validate.ts';
import { openDevice } from '../workers/engine/device.ts';
import { accumulateGradients, evaluate } from '../workers/engine/losses/supervised.ts';
import { type Model, openModel } from '../workers/engine/models/index.ts';
import { AdamW, learningRateAt } from '../workers/engine/optim/index.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../workers/engine/peft/index.ts';
import { loadTokenizer } from '../workers/engine/tokenizer/load.ts';

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const { values: given } = parseArgs({
  options: {
    epochs: { type: 'string', default: '6' },
    batch: { type: 'string', default: '8' },
    'learning-rate': { type: 'string', default: '0.002' },
    rank: { type: 'string', default: '8' },
    threads: { type: 'string' },
    seed: { type: 'string', default: '1' },
    model: { type: 'string', default: at('../models/lathe-tiny') },
  },
});

/** Share of rows whose whole answer is the model's first choice token by token (what greedy decoding writes). */
function score(model: Model, dataset: Dataset): { exact: number; loss: number } {
  let exact = 0;
  let [loss, labelled] = [0, 0];
  for (let i = 0; i < dataset.length; i++) {
    const sums = evaluate(model, concatenate(dataset.get(i)));
    if (sums.correct === sums.labelled) exact++;
    loss += sums.lossSum;
    labelled += sums.labelled;
  }
  return { exact: exact / dataset.length, loss: loss / labelled };
}

const device = openDevice(given.threads === undefined ? {} : { threads: Number(given.threads) });
const tokenizer = loadTokenizer(given.model);
const read = (name: string) =>
  loadDataset(at(`../examples/data/${name}.jsonl`), tokenizer, { maxLength: 2048, overlong: 'error' });
const [train, valid, heldout] = [await read('train'), await read('valid'), await read('heldout')];
const model = openModel(given.model, device, { dtype: 'bf16' });
const base = score(model, heldout.dataset);

const r = Number(given.rank);
const seed = Number(given.seed);
const adapter = LoraAdapter.create(
  model,
  { ...LORA_DEFAULTS, r, lora_alpha: 2 * r, target_modules: 'all-linear' },
  seed,
);
model.attach(adapter);
const optimizer = new AdamW(model.trainableParameters());
const batchSize = Number(given.batch);
const totalSteps = stepsPerEpoch(train.dataset.length, batchSize) * Number(given.epochs);
const learningRate = Number(given['learning-rate']);
const schedule = {
  type: 'linear',
  learningRate,
  warmupSteps: Math.ceil(0.03 * totalSteps),
  totalSteps,
} as const;

const began = performance.now();
let tokens = 0;
for (let step = 0; step < totalSteps; step++) {
  const batches = batchesOf(train.dataset, { batchSize, maxTokens: 2048, seed, step });
  const labelledTotal = batches.reduce(
    (sum, b) => sum + b.targets.reduce((n, t) => n + (t >= 0 ? 1 : 0), 0),
    0,
  );
  optimizer.zeroGrad();
  let [lossSum, correct] = [0, 0];
  batches.forEach((batch, microBatch) => {
    const sums = accumulateGradients(model, batch, { labelledTotal, seed, step, microBatch });
    lossSum += sums.lossSum;
    correct += sums.correct;
    tokens += batch.ids.length;
  });
  optimizer.step(learningRateAt(step, schedule), { maxGradNorm: 1 });
  if ((step + 1) % 50 === 0) {
    console.log(
      `step ${step + 1}/${totalSteps} loss ${(lossSum / labelledTotal).toFixed(4)} accuracy ${(correct / labelledTotal).toFixed(4)}`,
    );
  }
}
const seconds = (performance.now() - began) / 1000;
const tuned = score(model, heldout.dataset);
let [validLoss, validLabelled] = [0, 0];
for (const batch of evaluationBatches(valid.dataset, 2048)) {
  const sums = evaluate(model, batch);
  validLoss += sums.lossSum;
  validLabelled += sums.labelled;
}
console.log(
  JSON.stringify({
    base_exact_match: base.exact,
    tuned_exact_match: tuned.exact,
    base_heldout_loss: base.loss,
    tuned_heldout_loss: tuned.loss,
    tuned_valid_loss: validLoss / validLabelled,
    train_seconds: seconds,
    tokens_per_second: tokens / seconds,
    steps: totalSteps,
  }),
);
