/**
 * What a training may take of the memory, decided before its first step: whether activations are kept or computed again,
 * and whether small micro-batches are recorded. Knows no data and no steps.
 */
import { totalmem } from 'node:os';
import { recorderOf } from '../engine/graphs.ts';
import { paddedSize, type RecordedBatches, tokensWorthRecording } from '../engine/losses/recorded-batches.ts';
import { recordedGradients } from '../engine/losses/supervised.ts';
import type { Model } from '../engine/models/index.ts';
import { estimatedBytes, estimateMemory } from '../engine/models/memory-estimate.ts';
import type { PlannedMethod } from './plan.ts';

/** Above this share of the memory, activations are recomputed instead of kept: of the machine's, and of a GPU's own. */
const MEMORY_SHARE = { machine: 0.6, device: 0.92 };

export interface MemoryPlan {
  /** What the training is expected to need. */
  bytes: number;
  /** What it may take. */
  most: number;
  recompute: boolean;
  /** Micro-batches up to so many tokens are padded to sizes that repeat; 0: none. */
  paddedTokens: number;
  /** Whether there is room for recording them: their activations lie apart from those of other micro-batches. */
  isRecorded: boolean;
}

/** @param largestPack tokens of the largest micro-batch */
export function planMemory(method: PlannedMethod, model: Model, largestPack: number): MemoryPlan {
  const { device, config, dtype, activationDtype, adapter } = model;
  const estimated = (tokens: number) =>
    estimateMemory(config, dtype, activationDtype, model.counts(), adapter === null, tokens, device.kind);
  const capacity = device.capacity();
  const most = capacity === null ? MEMORY_SHARE.machine * totalmem() : MEMORY_SHARE.device * capacity;
  // Small micro-batches may grow by their padding.
  const paddedTokens = paddedTokensOf(method, model, largestPack);
  const estimate = estimated(Math.max(largestPack, paddedTokens));
  const recompute = estimatedBytes(estimate, false) > most;
  const bytes = estimatedBytes(estimate, recompute);
  if (paddedTokens === 0) return { bytes, most, recompute, paddedTokens, isRecorded: false };
  const { activationBytes, recomputedActivationBytes } = estimated(paddedTokens);
  const recorded = bytes + (recompute ? recomputedActivationBytes : activationBytes);
  const isRecorded = recorded <= most;
  return { bytes: isRecorded ? recorded : bytes, most, recompute, paddedTokens, isRecorded };
}

/** A matter of model, method and data alone, so that every attempt of a job computes the same numbers. */
function paddedTokensOf(method: PlannedMethod, model: Model, largestPack: number): number {
  const hasDropout = (model.adapter?.config.lora_dropout ?? 0) > 0;
  if (!model.device.worksAhead || method.type !== 'supervised' || hasDropout) return 0;
  return Math.min(tokensWorthRecording(model), paddedSize(largestPack));
}

/** Null where none is padded. */
export function recordedMicroBatches(model: Model, plan: MemoryPlan): RecordedBatches | null {
  const { paddedTokens: tokensMax, recompute, isRecorded } = plan;
  if (tokensMax === 0) return null;
  return recordedGradients(model, {
    recompute,
    tokensMax,
    recorder: isRecorded ? recorderOf(model.device) : null,
  });
}
