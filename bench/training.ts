/** Whole LoRA steps on random weights and packed random tokens: what train-cpu and the device check time. */
import { join } from 'node:path';
import type { Device } from '../workers/engine/device.ts';
import { recorderOf } from '../workers/engine/graphs.ts';
import { paddedSize } from '../workers/engine/losses/recorded-batches.ts';
import { accumulateGradientsLater, recordedGradients } from '../workers/engine/losses/supervised.ts';
import type { Model, PackedBatch } from '../workers/engine/models/index.ts';
import { createModel, type ModelConfig, openModel } from '../workers/engine/models/index.ts';
import { AdamW } from '../workers/engine/optim/adamw.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';
import { matmulParameters } from './shapes.ts';
import { adapterConfig } from './training-folder.ts';

export interface StepFigures {
  loss: number;
  gradNorm: number;
}

export interface LoraBench {
  model: Model;
  adapter: LoraAdapter;
  /** Parameters of the model with its adapter, and of the adapter. */
  counts: { total: number; trainable: number };
  /** One optimizer step over `batches`; returns the mean loss and the gradient norm before clipping. */
  step(index: number, batches: PackedBatch[]): StepFigures;
  /** The same, asked for: the figures are waited for when they are read. */
  launch(index: number, batches: PackedBatch[]): () => StepFigures;
  /** Micro-batch sizes that are recorded now. */
  recorded(): number;
  dispose(): void;
}

/** How micro-batches run: as they are, padded to sizes that repeat, or padded and recorded where the device records. */
export type Way = 'plain' | 'padded' | 'recorded';

export interface LoraBenchOptions {
  recompute?: boolean;
  way?: Way;
  /** Tokens of the largest micro-batch that is padded. */
  tokensMax?: number;
}

/** A random model of the shape with a fresh adapter on all linears (lora_alpha = 2r) and AdamW at rate 1e-4. */
export function loraBench(
  device: Device,
  config: ModelConfig,
  dtype: 'f32' | 'bf16',
  r: number,
  options: LoraBenchOptions = {},
): LoraBench {
  const model = createModel(config, device, { dtype, seed: 1, trainable: false });
  return benchOf(model, LoraAdapter.create(model, adapterConfig(r), 1), options);
}

/** The same on a folder of trainingFolder(). */
export function openLoraBench(device: Device, folder: string, dtype: 'f32' | 'bf16'): LoraBench {
  const model = openModel(folder, device, { dtype });
  return benchOf(model, LoraAdapter.load(join(folder, 'adapter'), model), {});
}

function benchOf(model: Model, adapter: LoraAdapter, options: LoraBenchOptions): LoraBench {
  const { recompute = false, way = 'plain', tokensMax = 0 } = options;
  model.attach(adapter);
  const optimizer = new AdamW(adapter.parameters(), {});
  const recorder = way === 'recorded' ? recorderOf(model.device) : null;
  const recorded =
    way === 'plain'
      ? null
      : recordedGradients(model, { recompute, recorder, tokensMax: paddedSize(tokensMax) });
  const launch = (index: number, batches: PackedBatch[]) => {
    const labelledTotal = batches.reduce((sum, batch) => sum + labelledOf(batch), 0);
    optimizer.zeroGrad();
    const sums = batches.map((batch, microBatch) =>
      accumulateGradientsLater(model, batch, {
        ...{ labelledTotal, seed: 1, step: index, microBatch, recompute, recorded },
      }),
    );
    const update = optimizer.stepLater(1e-4, { maxGradNorm: 1 });
    return () => ({
      loss: sums.reduce((sum, read) => sum + read().lossSum, 0) / labelledTotal,
      gradNorm: update.read().gradNorm,
    });
  };
  return {
    model,
    adapter,
    counts: model.counts(),
    launch,
    recorded: () => recorded?.recorded ?? 0,
    step: (index, batches) => launch(index, batches)(),
    dispose() {
      recorded?.dispose();
      for (const thing of [optimizer, adapter, model]) thing.dispose();
    },
  };
}

const labelledOf = (batch: PackedBatch) => batch.targets.filter((target) => target >= 0).length;

/**
 * Seconds a step of `count` steps, the figures of each read while the next one runs, as the trainer does; and the figures
 * of all of them.
 */
export function pipelined(
  bench: LoraBench,
  first: number,
  count: number,
  batchesOf: (index: number) => PackedBatch[],
): { secondsPerStep: number; figures: StepFigures[] } {
  const figures: StepFigures[] = [];
  const start = performance.now();
  let before: (() => StepFigures) | null = null;
  for (let i = 0; i < count; i++) {
    const read = bench.launch(first + i, batchesOf(first + i));
    if (before !== null) figures.push(before());
    before = read;
  }
  if (before !== null) figures.push(before());
  return { secondsPerStep: (performance.now() - start) / 1000 / count, figures };
}

/** Sequences of the given lengths laid end to end; the last `labelled` share of each is learned. */
export function randomBatch(vocabSize: number, lengths: readonly number[], labelled: number): PackedBatch {
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const ids = Int32Array.from({ length: tokens }, () => Math.floor(Math.random() * vocabSize));
  const positions = new Int32Array(tokens);
  const targets = new Int32Array(tokens).fill(-100);
  const cuSeqlens = new Int32Array(lengths.length + 1);
  lengths.forEach((length, s) => {
    const start = cuSeqlens[s]!;
    cuSeqlens[s + 1] = start + length;
    for (let position = 0; position < length; position++) {
      positions[start + position] = position;
      if (position + 1 < length && position + 1 >= (1 - labelled) * length) {
        targets[start + position] = ids[start + position + 1]!;
      }
    }
  });
  return { ids, positions, cuSeqlens, targets };
}

/**
 * FLOPs a token of a LoRA step without recompute: forward and dX of the frozen linears (4N), the head on labelled rows
 * only, 6 per adapter weight, and 3.5 times the attention's forward, which sees half of `length` keys on average.
 */
export function loraFlopsPerToken(config: ModelConfig, r: number, labelled: number, length: number): number {
  const { trunk, head, lora } = matmulParameters(config, r);
  const attention = 3.5 * 4 * (length / 2) * config.heads * config.headDim * config.layers;
  return 4 * trunk + 4 * head * labelled + 6 * lora + attention;
}
