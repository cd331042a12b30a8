// Steps for runners to be compared on: the shipped model, three random adapters, prompts in chunks beside decoding.
import path from 'node:path';
import { expect } from 'vitest';
import type { WireSampling } from '../../src/inference/protocol.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { SCRATCH_ROWS } from '../../workers/engine/models/decode-buckets.ts';
import { KvCache, type Model, openModel } from '../../workers/engine/models/index.ts';
import { LoraAdapter, type LoraConfig } from '../../workers/engine/peft/lora.ts';
import { scope } from '../../workers/engine/tensor.ts';
import { DeviceRunner, type DeviceRunnerOptions } from '../../workers/inference/device-runner.ts';
import type { GrammarState } from '../../workers/inference/grammar/states.ts';
import { ModelRunner, type RunItem, type Runner } from '../../workers/inference/model-runner.ts';
import type { NoSample, Sample } from '../../workers/inference/sample.ts';
import { Sampler } from '../../workers/inference/sampling.ts';
import { disposeAfterAll } from '../helpers/owned.ts';
import { Random, RUN_SEED } from '../helpers/tolerance.ts';
import { plainSampling } from './fake-model.ts';

export const FOLDER = path.join(import.meta.dirname, '../../models/lathe-tiny');
export const BLOCK = 4;
export const BLOCKS_EACH = 8;
export const SEQUENCES = 12;
const CHUNK = 5;

export const device = openDevice({ kind: 'cpu' });
export const owned = disposeAfterAll();

export const lora = (r: number, targets: LoraConfig['target_modules'], rslora = false): LoraConfig => ({
  r,
  lora_alpha: 2 * r,
  lora_dropout: 0,
  target_modules: targets,
  use_rslora: rslora,
  init_lora_weights: false,
});

/** A random adapter whose values bf16 can hold, so that how a pool stores them makes no difference. */
export function adapter(seed: number, config: LoraConfig): LoraAdapter {
  const made = owned(LoraAdapter.create(packed, config, seed));
  for (const tensor of made.parameters().values())
    scope(() => device.native.copy(tensor.handle, tensor.cast('bf16').cast('f32').handle));
  return made;
}

export const packed = owned(openModel(FOLDER, device, { dtype: 'f32', forServing: true }));
export const plain = owned(openModel(FOLDER, device, { dtype: 'f32' }));
/** The last ids are never said, as with an embedding that is padded. */
export const vocabulary = plain.config.vocabSize - 3;
export const adapters: LoraAdapter[] = [
  adapter(1, lora(8, 'all-linear')),
  adapter(2, lora(3, ['q_proj', 'v_proj'])),
  adapter(3, lora(12, ['down_proj', 'gate_proj', 'o_proj'], true)),
];

export const cacheFor = (model: Model) =>
  owned(new KvCache(model, { blocks: SEQUENCES * BLOCKS_EACH, blockSize: BLOCK, scratchRows: SCRATCH_ROWS }));

export const reference = () => new ModelRunner(packed, cacheFor(packed), vocabulary);
export const deviceRunner = (options: Partial<DeviceRunnerOptions> = {}) =>
  owned(
    new DeviceRunner(plain, cacheFor(plain), {
      vocabSize: vocabulary,
      adapterSlots: 3,
      adapterBytes: 2 ** 30,
      ...options,
    }),
  );

export interface Ask {
  prompt: Int32Array;
  adapter: LoraAdapter | null;
  sampling: WireSampling;
  /** The step in which it comes. */
  from: number;
  grammar?: GrammarState;
  scored?: [position: number, logits: Float32Array][];
}

/** Some prompts, adapters in turns (the base among them), each a step after the one before. */
export function asks(count: number, sampling: Partial<WireSampling>, seed = RUN_SEED): Ask[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, i) => ({
    prompt: Int32Array.from({ length: random.integer(1, 12) }, () => random.integer(5, vocabulary - 1)),
    adapter: [null, ...adapters][i % 4]!,
    sampling: { ...plainSampling, ...sampling },
    from: i,
  }));
}

export type Told = (Sample | NoSample | null)[];

/** Every ask to `length` tokens: prompts in chunks, beside sequences that are further. */
export function drive(runner: Runner<LoraAdapter>, given: readonly Ask[], length: number): Told[] {
  const told: Told[] = given.map(() => []);
  const running = given.map((ask, i) => ({
    ...ask,
    tokens: [...ask.prompt],
    done: 0,
    sampler: new Sampler(ask.sampling, 2 ** 40 + 17, i, ask.grammar ?? null),
  }));
  for (let step = 0; told.some((samples) => samples.length < length); step++) {
    const turn = running.flatMap((s, i) => (s.from <= step && told[i]!.length < length ? [i] : []));
    const items = turn.map((i): RunItem<LoraAdapter> => {
      const { tokens, done, adapter: used, sampler, scored, prompt } = running[i]!;
      const end = Math.min(tokens.length, done + CHUNK);
      return {
        tokens: Int32Array.from(tokens.slice(done, end)),
        start: done,
        blocks: Array.from({ length: BLOCKS_EACH }, (_, b) => i + b * SEQUENCES),
        adapterKey: used && String(adapters.indexOf(used)),
        adapter: used,
        sampler: end === tokens.length ? sampler : null,
        score: scored && done < prompt.length ? (at, logits) => scored.push([at, logits.slice()]) : null,
      };
    });
    const samples = runner.run(items);
    turn.forEach((i, k) => {
      const s = running[i]!;
      s.done += items[k]!.tokens.length;
      const sample = samples[k]!;
      if (items[k]!.sampler === null) {
        expect(sample).toBeNull();
        return;
      }
      told[i]!.push(sample);
      s.tokens.push(typeof sample === 'object' && sample ? sample.token : 5);
    });
  }
  return told;
}

export const tokensOf = (told: readonly Told[]) =>
  told.map((samples) => samples.map((sample) => (typeof sample === 'object' ? sample?.token : sample)));

export function expectClose(found: readonly Told[], wanted: readonly Told[]): void {
  expect(tokensOf(found)).toEqual(tokensOf(wanted));
  found.flat().forEach((sample, i) => {
    const [a, b] = [sample as Sample, wanted.flat()[i] as Sample];
    expect(Math.abs(a.logprob - b.logprob)).toBeLessThan(1e-3);
    expect(a.top.map(([token]) => token)).toEqual(b.top.map(([token]) => token));
    a.top.forEach(([, logprob], k) => {
      expect(Math.abs(logprob - b.top[k]![1])).toBeLessThan(1e-3);
    });
  });
}
