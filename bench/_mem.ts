import { shape } from '/work/wt/cuda/bench/shapes.ts';
import { randomBatch } from '/work/wt/cuda/bench/training.ts';
import { openDevice } from '/work/wt/cuda/workers/engine/device.ts';
import { accumulateGradientsLater } from '/work/wt/cuda/workers/engine/losses/supervised.ts';
import { createModel } from '/work/wt/cuda/workers/engine/models/index.ts';
import { estimatedBytes, estimateMemory } from '/work/wt/cuda/workers/engine/models/memory-estimate.ts';
import { AdamW } from '/work/wt/cuda/workers/engine/optim/adamw.ts';
import { LoraAdapter } from '/work/wt/cuda/workers/engine/peft/lora.ts';

const [name, tokens, rec, dtype, r] = process.argv.slice(2);
const device = openDevice({ kind: 'cpu' });
const config = shape(name!);
const model = createModel(config, device, { dtype: dtype as 'bf16', seed: 1, trainable: false });
const adapter = LoraAdapter.create(
  model,
  { r: Number(r), lora_alpha: 16, lora_dropout: 0, target_modules: 'all-linear', use_rslora: false },
  1,
);
model.attach(adapter);
const opt = new AdamW(adapter.parameters(), {});
const T = Number(tokens);
const batch = randomBatch(config.vocabSize, Array(T / 128).fill(128), 1);
const est = estimateMemory(config, model.dtype, model.activationDtype, model.counts(), false, T, 'cpu');
opt.zeroGrad();
const before = device.memory().inUse;
accumulateGradientsLater(model, batch, {
  labelledTotal: T,
  seed: 1,
  step: 0,
  microBatch: 0,
  recompute: rec === '1',
})();
opt.stepLater(1e-4, { maxGradNorm: 1 }).read();
const e = estimatedBytes(est, rec === '1');
console.log(
  name,
  tokens,
  rec,
  dtype,
  'estimate',
  (e / 2 ** 20).toFixed(1),
  'peak',
  (device.memory().peak / 2 ** 20).toFixed(1),
  (e / device.memory().peak).toFixed(3),
  'before',
  (before / 2 ** 20).toFixed(1),
  est,
);
