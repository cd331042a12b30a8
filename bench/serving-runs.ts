/**
 * Prefill and decoding of one model on the CPU as the worker's runner does them, sampling included: own sides of the
 * comparisons of prefill-cpu and decode-cpu.
 */
import type { Device } from '../workers/engine/device.ts';
import { KvCache, type Model, openModel, type Quantization } from '../workers/engine/models/index.ts';
import { ModelRunner } from '../workers/inference/model-runner.ts';
import { Sampler } from '../workers/inference/sampling.ts';
import { GREEDY } from './decoding.ts';
import type { Block } from './peers/interleave.ts';

const BLOCK = 16;

/** A prompt of `length` tokens; the same on every run, and for every peer. */
export const prompt = (length: number): number[] =>
  Array.from({ length }, (_, i) => (i * 7919 + 13) % 150_000);

export class ServingRuns {
  readonly model: Model;
  readonly #cache: KvCache;
  readonly #runner: ModelRunner;

  /** `folder`: a bf16 model; `positions`: the longest context. */
  constructor(folder: string, device: Device, positions: number, quantization: Quantization | null) {
    this.model = openModel(folder, device, { dtype: 'bf16', forServing: true, quantization });
    this.#cache = new KvCache(this.model, { blocks: Math.ceil(positions / BLOCK), blockSize: BLOCK });
    this.#runner = new ModelRunner(this.model, this.#cache, this.model.config.vocabSize);
  }

  /** From a prompt to its first greedy token. */
  prefill(tokens: readonly number[]): Block & { token: number } {
    const start = performance.now();
    const token = this.#run(tokens, 0);
    return { seconds: (performance.now() - start) / 1000, token };
  }

  /** `steps` greedy tokens after a prompt and one more, which are not timed. */
  decode(tokens: readonly number[], steps: number): Block & { tokens: number[] } {
    const drawn = [this.#run(tokens, 0)];
    const start = performance.now();
    for (let i = 0; i < steps; i++) drawn.push(this.#run([drawn[i]!], tokens.length + i));
    return { seconds: (performance.now() - start) / 1000, tokens: drawn };
  }

  /** The logits of the token after `tokens`. */
  logits(tokens: readonly number[]): Float32Array {
    let found: Float32Array | null = null;
    const score = (position: number, logits: Float32Array) => {
      if (position === tokens.length - 1) found = logits.slice();
    };
    this.#item(tokens.slice(0, -1), 0, null);
    this.#item(tokens.slice(-1), tokens.length - 1, score);
    return found!;
  }

  dispose(): void {
    this.#cache.dispose();
    this.model.dispose();
  }

  #run(tokens: readonly number[], start: number): number {
    const sample = this.#item(tokens, start, null);
    if (sample === null || typeof sample === 'string') throw new Error(`no token: ${sample}`);
    return sample.token;
  }

  #item(
    tokens: readonly number[],
    start: number,
    score: ((position: number, logits: Float32Array) => void) | null,
  ) {
    const blocks = Array.from({ length: this.#cache.blocks }, (_, i) => i);
    const sampler = new Sampler(GREEDY, 1, 0);
    const item = {
      tokens: Int32Array.from(tokens),
      start,
      blocks,
      adapterKey: null,
      adapter: null,
      sampler,
      score,
    };
    return this.#runner.run([item])[0]!;
  }
}
