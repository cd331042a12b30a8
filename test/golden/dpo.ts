// Reads test/golden/data/dpo (see make_dpo_golden.py) and lays its pairs end to end as the engine wants them.
import { join } from 'node:path';
import type { PackedBatch } from '../../workers/engine/models/packed.ts';
import { type OptimizerSettings, pack, readJson, readSafetensors } from './read.ts';

const FOLDER = join(import.meta.dirname, 'data', 'dpo');

export interface Pair {
  prompt_ids: number[];
  chosen_ids: number[];
  rejected_ids: number[];
}

export type DpoRun = 'base' | 'adapter';

export interface DpoReference {
  beta: number;
  micro_batches: Pair[][];
  optimizer: OptimizerSettings;
  /** Per step: the loss over all pairs, the norm before the clip, and TRL's metrics of each micro-batch. */
  runs: Record<DpoRun, { loss: number; grad_norm: number; metrics: Record<string, number[]> }[]>;
}

export const readDpoReference = (): DpoReference => readJson(FOLDER, 'reference.json');

/** `<run>.grad<step>.<key>` and `<run>.final.<key>`. */
export const readDpoTensors = () => readSafetensors(join(FOLDER, 'reference.safetensors'));

/** Preferred and other answer of every pair side by side, packed; the prompt is not learned. */
export function packPairs(pairs: readonly Pair[]): PackedBatch {
  return pack(
    pairs.flatMap(({ prompt_ids: prompt, chosen_ids: chosen, rejected_ids: rejected }) =>
      [chosen, rejected].map((answer) => ({
        ids: [...prompt, ...answer],
        labels: [...prompt.map(() => -100), ...answer],
      })),
    ),
  );
}
