/**
 * Rotary frequencies: reads `rope_theta`/`rope_scaling` (transformers 4) or `rope_parameters` (transformers 5) and
 * computes inverse frequencies for the variants default, linear, llama3 and yarn. Pure numbers, no tensors.
 */
import { type Fields, ModelConfigError, Fields as StrictFields } from './fields.ts';

export type RopeConfig =
  | { type: 'default'; theta: number }
  | { type: 'linear'; theta: number; factor: number }
  | {
      type: 'llama3';
      theta: number;
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositionEmbeddings: number;
    }
  | {
      type: 'yarn';
      theta: number;
      factor: number;
      betaFast: number;
      betaSlow: number;
      truncate: boolean;
      attentionFactor: number;
      originalMaxPositionEmbeddings: number;
    };

const DEFAULT_THETA = 10_000;
const THETA_MAX = 1e12;

/** @throws ModelConfigError naming the field, also for variants whose frequencies depend on the sequence length. */
export function readRopeConfig(config: Fields, maxPositionEmbeddings: number): RopeConfig {
  const modern = config.has('rope_parameters');
  const key = modern ? 'rope_parameters' : 'rope_scaling';
  const theta = config.number('rope_theta', 1, THETA_MAX, DEFAULT_THETA);
  if (!config.has(key)) return { type: 'default', theta };

  const scaling = new StrictFields(config.get(key), key);
  if (scaling.has('full_attention') || scaling.has('sliding_attention')) {
    config.refuse(key, 'differs by layer type, which is not supported');
  }
  return readVariant(
    scaling,
    modern ? scaling.number('rope_theta', 1, THETA_MAX, theta) : theta,
    maxPositionEmbeddings,
  );
}

function readVariant(scaling: Fields, theta: number, maxPositionEmbeddings: number): RopeConfig {
  const key = scaling.has('rope_type') ? 'rope_type' : 'type';
  const type = scaling.string(key, 'default');
  if (scaling.number('partial_rotary_factor', 0, 1, 1) !== 1) {
    scaling.refuse('partial_rotary_factor', 'other than 1 is not supported');
  }
  const original = (fallback?: number) =>
    scaling.integer('original_max_position_embeddings', 1, 2 ** 22, fallback);
  switch (type) {
    case 'default':
      return { type, theta };
    case 'linear':
      return { type, theta, factor: scaling.number('factor', 1, 1e6) };
    case 'llama3': {
      const lowFreqFactor = scaling.number('low_freq_factor', 1e-6, 1e6);
      const highFreqFactor = scaling.number('high_freq_factor', 1e-6, 1e6);
      if (highFreqFactor <= lowFreqFactor)
        scaling.refuse('high_freq_factor', 'must be above low_freq_factor');
      const factor = scaling.number('factor', 1, 1e6);
      return {
        type,
        theta,
        factor,
        lowFreqFactor,
        highFreqFactor,
        originalMaxPositionEmbeddings: original(),
      };
    }
    case 'yarn':
      return readYarn(scaling, theta, original(maxPositionEmbeddings), maxPositionEmbeddings);
    default:
      throw new ModelConfigError(
        scaling.path(key),
        `${JSON.stringify(type)} is not supported (default, linear, llama3 and yarn are)`,
      );
  }
}

function readYarn(
  scaling: Fields,
  theta: number,
  original: number,
  maxPositionEmbeddings: number,
): RopeConfig {
  const factor = scaling.number('factor', 1, 1e6, maxPositionEmbeddings / original);
  const mscale = scaling.number('mscale', 0, 1e3, 0);
  const mscaleAllDim = scaling.number('mscale_all_dim', 0, 1e3, 0);
  const magnitude = (m: number) => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);
  const natural = mscale > 0 && mscaleAllDim > 0 ? magnitude(mscale) / magnitude(mscaleAllDim) : magnitude(1);
  return {
    type: 'yarn',
    theta,
    factor,
    betaFast: scaling.number('beta_fast', 1e-6, 1e6, 32),
    betaSlow: scaling.number('beta_slow', 1e-6, 1e6, 1),
    truncate: scaling.boolean('truncate', true),
    attentionFactor: scaling.number('attention_factor', 1e-6, 1e3, natural),
    originalMaxPositionEmbeddings: original,
  };
}

/** inv[j] = the angle per position of pair j, j < headDim/2; and the factor on cos and sin. */
export interface RopeFrequencies {
  inverse: Float64Array;
  attentionFactor: number;
}

export function ropeFrequencies(rope: RopeConfig, headDim: number): RopeFrequencies {
  const half = headDim / 2;
  const base = Float64Array.from({ length: half }, (_, j) => rope.theta ** (-(2 * j) / headDim));
  switch (rope.type) {
    case 'default':
      return { inverse: base, attentionFactor: 1 };
    case 'linear':
      return { inverse: base.map((inv) => inv / rope.factor), attentionFactor: 1 };
    case 'llama3':
      return { inverse: base.map((inv) => llama3Frequency(inv, rope)), attentionFactor: 1 };
    case 'yarn':
      return { inverse: yarnFrequencies(base, rope, headDim), attentionFactor: rope.attentionFactor };
  }
}

/** Long wavelengths are divided by the factor, short ones kept, the band between interpolated (Llama 3.1). */
function llama3Frequency(inv: number, rope: Extract<RopeConfig, { type: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: original } = rope;
  const wavelength = (2 * Math.PI) / inv;
  if (wavelength > original / lowFreqFactor) return inv / factor;
  if (wavelength < original / highFreqFactor) return inv;
  const smooth = (original / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * inv) / factor + smooth * inv;
}

/** YaRN (arXiv:2309.00071): interpolate slow dimensions, keep fast ones, ramp between `low` and `high`. */
function yarnFrequencies(
  base: Float64Array,
  rope: Extract<RopeConfig, { type: 'yarn' }>,
  headDim: number,
): Float64Array {
  const { low, high } = yarnRange(rope, headDim);
  const width = high === low ? 0.001 : high - low;
  return base.map((inv, j) => {
    const ramp = Math.min(1, Math.max(0, (j - low) / width));
    return (inv / rope.factor) * ramp + inv * (1 - ramp);
  });
}

/** The pair indices between which YaRN blends: where a pair turns betaFast and betaSlow times over the context. */
export function yarnRange(
  rope: Extract<RopeConfig, { type: 'yarn' }>,
  headDim: number,
): { low: number; high: number } {
  const { theta, betaFast, betaSlow, truncate, originalMaxPositionEmbeddings: original } = rope;
  const pairAt = (turns: number) =>
    (headDim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [low, high] = [pairAt(betaFast), pairAt(betaSlow)];
  return {
    low: Math.max(truncate ? Math.floor(low) : low, 0),
    high: Math.min(truncate ? Math.ceil(high) : high, headDim - 1),
  };
}
