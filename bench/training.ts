/** Whole LoRA steps on random weights and packed random tokens: what train-cpu and the device check time. */
import type { Device } from '../workers/engine/device.ts';
import { accumulateGradients } from '../workers/engine/losses/supervised.ts';
import type { Model, PackedBatch } from '../workers/engine/models/index.ts';
import { createModel, type ModelConfig } from '../workers/engine/models/index.ts';
import { AdamW } from '../workers/engine/optim/adamw.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';
import { matmulParameters } from './shapes.ts';

export interface LoraBench {
  model: Model;
  adapter: LoraAdapter;
  /** One optimizer step over `batches`; returns the mean loss and the gradient norm before clipping. */
  step(index: number, batches: PackedBatch[]): { loss: number; gradNorm: number };
  dispose(): void;
}

/** A random model of the shape with a fresh adapter on all linears (lora_alpha = 2r) and AdamW at rate 1e-4. */
export function loraBench(device: Device, config: ModelConfig, dtype: 'f32' | 'bf16', r: number): LoraBench {
  const model = createModel(config, device, { dtype, seed: 1, trainable: false });
  const adapter = LoraAdapter.create(
    model,
    { r, lora_alpha: 2 * r, lora_dropout: 0, target_modules: 'all-linear', use_rslora: false },
    1,
  );
  model.attach(adapter);
  const optimizer = new AdamW(adapter.parameters(), {});
  return {
    model,
    adapter,
    step(index, batches) {
      const labelledTotal = batches.reduce((sum, batch) => sum + labelledOf(batch), 0);
      const sums = batches.map((batch, microBatch) =>
        accumulateGradients(model, batch, { labelledTotal, seed: 1, step: index, microBatch }),
      );
      const { gradNorm } = optimizer.step(1e-4, { maxGradNorm: 1 });
      optimizer.zeroGrad();
      return { loss: sums.reduce((sum, { lossSum }) => sum + lossSum, 0) / labelledTotal, gradNorm };
    },
    dispose() {
      for (const thing of [optimizer, adapter, model]) thing.dispose();
    },
  };
}

const labelledOf = (batch: PackedBatch) => batch.targets.filter((target) => target >= 0).length;

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
