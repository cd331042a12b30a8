/** Generation by a full forward over the whole text for every token: slow, obvious, the oracle for the paged path. */
import type { Model } from '../../workers/engine/models/model.ts';
import { argmax, type SamplingOptions, sampleToken } from './sample-naive.ts';

export interface NaiveOptions {
  maxTokens: number;
  /** Generation ends before one of these ids is returned. */
  eos?: Iterable<number>;
  /** Default: the most likely token at every step. */
  sampling?: Omit<SamplingOptions, 'position' | 'counts'>;
}

/** The new token ids after `ids`, with the attached adapter if there is one. @throws when `ids` is empty */
export function generateNaive(model: Model, ids: Iterable<number>, options: NaiveOptions): number[] {
  const eos = new Set(options.eos ?? []);
  const all = [...ids];
  const generated: number[] = [];
  const counts = new Map<number, number>();
  while (generated.length < options.maxTokens) {
    const logits = lastLogits(model, all);
    const token = options.sampling
      ? sampleToken(logits, { ...options.sampling, position: generated.length, counts }).token
      : argmax(logits);
    if (eos.has(token)) break;
    generated.push(token);
    all.push(token);
    counts.set(token, (counts.get(token) ?? 0) + 1);
  }
  return generated;
}

function lastLogits(model: Model, ids: readonly number[]): Float32Array {
  const batch = {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(ids.keys()),
    cuSeqlens: Int32Array.of(0, ids.length),
    targets: new Int32Array(ids.length).fill(-100),
  };
  return model.logits(batch, Int32Array.of(ids.length - 1));
}
