/**
 * LoRA training on the CPU: tokens/s of whole optimizer steps on packed random tokens, against the compute floor
 * (`4N + 6P` FLOPs a token, the head on labelled rows only) at the product speed measured in the same run.
 */
import { openDevice } from '../workers/engine/device.ts';
import { gemmCeiling } from './ceilings.ts';
import { machine, median, options, peakRssMib, round, seconds } from './options.ts';
import { shape } from './shapes.ts';
import { loraBench, loraFlopsPerToken, randomBatch } from './training.ts';

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
  const bench = loraBench(device, config, dtype, o.r);
  const lengths = sequenceLengths(o.tokens, o.length);
  const batch = randomBatch(config.vocabSize, lengths, o.labelled);

  let loss = 0;
  let gradNorm = 0;
  const step = (index: number) => {
    ({ loss, gradNorm } = bench.step(index, [batch]));
  };
  step(0);
  const ceilings: number[] = [];
  const times: number[] = [];
  for (let index = 1; index <= o.steps; index++) {
    ceilings.push(gemmCeiling(device, dtype, 3));
    times.push(seconds(() => step(index)));
  }

  const labelled = batch.targets.filter((target) => target >= 0).length / o.tokens;
  const flopsPerToken = loraFlopsPerToken(config, o.r, labelled, o.length);
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

/** `tokens` in sequences of `length`, the last one shorter where it does not divide. */
function sequenceLengths(tokens: number, length: number): number[] {
  return Array.from({ length: Math.ceil(tokens / length) }, (_, s) => Math.min(length, tokens - s * length));
}
