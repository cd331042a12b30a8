/** What a training of this worker's model would need, from shapes alone. Uses no device. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { InspectedMemory, InspectedTraining } from '../../src/inference/inspection.ts';
import { readModelConfig } from '../engine/models/config.ts';
import { loraParameterCount, parameterCount } from '../engine/models/count.ts';
import { estimatedBytes, estimateMemory } from '../engine/models/memory-estimate.ts';

/** @throws ModelConfigError, LoraConfigError when an adapter targets nothing of the model */
export function trainingMemory(modelDirectory: string, training: InspectedTraining): InspectedMemory {
  const raw: unknown = JSON.parse(readFileSync(path.join(modelDirectory, 'config.json'), 'utf8'));
  const config = readModelConfig(raw as Record<string, unknown>);
  const { adapter, dtype, pack_tokens } = training;
  const base = parameterCount(config);
  const trainable = adapter
    ? loraParameterCount(config, { r: adapter.r, targetModules: adapter.target_modules })
    : base;
  const total = adapter ? base + trainable : base;
  // The CPU keeps activations as f32 whatever the weights are; a GPU keeps them in the weights' type.
  const bytesOn = (kind: 'cpu' | 'cuda', activations: 'bf16' | 'f32') => {
    const counts = { total, trainable };
    const isFull = adapter === null;
    const estimate = estimateMemory(config, dtype, activations, counts, isFull, pack_tokens, kind);
    return { bytes: estimatedBytes(estimate, false), recomputed_bytes: estimatedBytes(estimate, true) };
  };
  return {
    trainable_parameters: trainable,
    total_parameters: total,
    cpu: bytesOn('cpu', 'f32'),
    cuda: bytesOn('cuda', dtype),
  };
}
