/**
 * LoRA training on the CPU: tokens/s of whole optimizer steps on packed random tokens, against the compute floor
 * (`4N + 6P` FLOPs a token, the head on labelled rows only) at the product speed measured in the same run.
 */
import { openDevice } from '../workers/engine/device.ts';
import { accumulateGradients } from '../workers/engine/losses/supervised.ts';
import { createModel } from '../workers/engine/models/index.ts';
import { AdamW } from '../workers/engine/optim/adamw.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';
import { gemmCeiling } from './ceilings.ts';
import { machine, median, options, peakRssMib, round, seconds } from './options.ts';
import { matmulParameters, shape } from './shapes.ts';

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, {
    model: 'lathe-tiny',
    dtype: 'bf16',
    tokens: 2048,
    length: 128,
    labelled: 0.4,
    r: 8,
    steps: 7,
  });
  const dtype = o.dtype === 'f32' ? 'f32' : 'bf16';
  const config = shape(o.model);
  const device = openDevice({ kind: 'cpu' });
  const model = createModel(config, device, { dtype, seed: 1, trainable: false });
  const adapter = LoraAdapter.create(
    model,
    { r: o.r, lora_alpha: 2 * o.r, lora_dropout: 0, target_modules: 'all-linear', use_rslora: false },
    1,
  );
  model.attach(adapter);
  const optimizer = new AdamW(adapter.parameters(), {});
  const batch = randomBatch(config.vocabSize, o.tokens, o.length, o.labelled);
  const labelledTotal = batch.targets.filter((target) => target >= 0).length;

  let loss = 0;
  let gradNorm = 0;
  const step = (index: number) => {
    const sums = accumulateGradients(model, batch, { labelledTotal, seed: 1, step: index, microBatch: 0 });
    loss = sums.lossSum / sums.labelled;
    gradNorm = optimizer.step(1e-4, { maxGradNorm: 1 }).gradNorm;
    optimizer.zeroGrad();
  };
  step(0);
  const ceilings: number[] = [];
  const times: number[] = [];
  for (let index = 1; index <= o.steps; index++) {
    ceilings.push(gemmCeiling(device, dtype, 3));
    times.push(seconds(() => step(index)));
  }

  const { trunk, head, lora } = matmulParameters(config, o.r);
  const attention = 3.5 * 4 * (o.length / 2) * config.heads * config.headDim * config.layers;
  const flopsPerToken = 4 * trunk + 4 * head * (labelledTotal / o.tokens) + 6 * lora + attention;
  const floor = (median(ceilings) * 1e9) / flopsPerToken;
  const speed = o.tokens / median(times);
  return {
    ...o,
    ...machine(),
    isa: device.native.info().isa,
    threads: device.threads,
    tokens_per_second: round(speed),
    floor_tokens_per_second: round(floor),
    ratio_to_floor: round(speed / floor),
    gemm_gflops: round(median(ceilings)),
    step_seconds: [Math.min(...times), median(times), Math.max(...times)].map((value) => round(value)),
    loss: round(loss, 5),
    grad_norm: round(gradNorm, 5),
    peak_rss_mib: peakRssMib(),
  };
}

/** `tokens` random ids in sequences of `length`; the last `labelled` share of each sequence is labelled. */
function randomBatch(vocabSize: number, tokens: number, length: number, labelled: number) {
  const ids = Int32Array.from({ length: tokens }, () => Math.floor(Math.random() * vocabSize));
  const positions = Int32Array.from({ length: tokens }, (_, t) => t % length);
  const starts = Array.from({ length: Math.ceil(tokens / length) }, (_, s) => s * length);
  const targets = Int32Array.from({ length: tokens }, (_, t) => {
    const position = t % length;
    const last = position === length - 1 || t === tokens - 1;
    return !last && position >= (1 - labelled) * length - 1 ? ids[t + 1]! : -100;
  });
  return { ids, positions, cuSeqlens: Int32Array.from([...starts, tokens]), targets };
}
