// Reads one case of test/golden/data (see make_golden.py): reference figures, tensors and packed batches.
// Has its own few lines of safetensors so that the expected values do not pass through the code under test.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PackedBatch } from '../../workers/engine/models/packed.ts';

const DATA = join(import.meta.dirname, 'data');

/** The four models: qk-norm and tied; qkv bias, untied and yarn; llama3 scaling, untied, sharded; linear scaling, tied. */
export const CASES = ['qwen3-tied', 'qwen2-yarn', 'llama-llama3', 'llama-linear'] as const;
export type CaseName = (typeof CASES)[number];

export interface Sequence {
  ids: number[];
  /** −100 where a token is not learned; unshifted. */
  labels: number[];
}

export interface StepLog {
  loss: number;
  learning_rate: number;
  grad_norm: number;
}

export interface OptimizerSettings {
  learning_rate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weight_decay: number;
  max_grad_norm: number;
  warmup_steps: number;
}

export interface Reference {
  seed: number;
  batch: Sequence[];
  micro_batches: Sequence[][];
  base: { loss: number; labelled: number; correct: number };
  adapter_init: { loss: number };
  adapter_final: { loss: number };
  bf16: { loss: number; logits_error_vs_fp32: number; lora_grad_error_vs_fp32_max: number };
  optimizer: OptimizerSettings;
  steps: { log: StepLog[] };
  full_steps: { learning_rate: number; log: StepLog[] };
  greedy: { prompt: number[]; completion: number[] };
  sliding_window?: number;
}

export interface StoredTensor {
  dtype: string;
  shape: number[];
  values: Float32Array;
}

export function caseFolder(name: CaseName): string {
  return join(DATA, name);
}

export function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(...path), 'utf8')) as T;
}

export function readReference(name: CaseName): Reference {
  return readJson(caseFolder(name), 'reference.json');
}

/** All tensors of a safetensors file of F32 and BF16 values, widened to f32. */
export function readSafetensors(path: string): Map<string, StoredTensor> {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const bytes = new Uint8Array(file.subarray(8 + headerBytes + offsets[0], 8 + headerBytes + offsets[1]));
    tensors.set(name, { dtype, shape, values: widen(dtype, bytes) });
  }
  return tensors;
}

function widen(dtype: string, bytes: Uint8Array): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.buffer);
  if (dtype !== 'BF16') throw new Error(`unexpected dtype ${dtype} in golden data`);
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer), (bits) => bits << 16).buffer);
}

export function readTensors(name: CaseName): Map<string, StoredTensor> {
  return readSafetensors(join(caseFolder(name), 'reference.safetensors'));
}

/** Lays sequences end to end; targets are the next token's label, −100 at the end of each. */
export function pack(sequences: readonly Sequence[]): PackedBatch {
  const ends = [0];
  for (const { ids } of sequences) ends.push(ends[ends.length - 1]! + ids.length);
  return {
    ids: Int32Array.from(sequences.flatMap((s) => s.ids)),
    positions: Int32Array.from(sequences.flatMap((s) => s.ids.map((_, position) => position))),
    cuSeqlens: Int32Array.from(ends),
    targets: Int32Array.from(sequences.flatMap((s) => [...s.labels.slice(1), -100])),
  };
}

export function labelledTokens(sequences: readonly Sequence[]): number {
  return pack(sequences).targets.filter((t) => t !== -100).length;
}

/** Every `step`-th row of the batch: the rows whose logits are stored (1 for the base, 3 for the adapters). */
export function everyRow(batch: PackedBatch, step: number): Int32Array {
  return Int32Array.from({ length: Math.ceil(batch.ids.length / step) }, (_, i) => i * step);
}
