/**
 * Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), sigmoid loss without label smoothing:
 * mean over pairs of −log σ(βΔ), Δ = (log π(c) − log ρ(c)) − (log π(r) − log ρ(r)), where a sequence's log-probability
 * is the sum over its learned tokens and ρ is the reference. Sequences 2k and 2k+1 of a batch are the preferred and the
 * other answer of pair k. Knows nothing of where the reference's numbers come from.
 */
import { Tape } from '../autograd.ts';
import type { Model } from '../models/model.ts';
import { type PackedBatch, packedForward } from '../models/packed.ts';
import type { RowLosses } from '../ops/cross-entropy.ts';
import { scope } from '../tensor.ts';
import { headLoss, type LabelledRows, labelledRows } from './head.ts';

/** Sums over pairs; divide by `pairs` (the accuracy of tokens by `chosenTokens`). */
export interface PreferenceSums {
  pairs: number;
  lossSum: number;
  /** β(log π − log ρ) of the preferred and of the other answers. */
  rewardChosen: number;
  rewardRejected: number;
  /** Pairs whose preferred answer has the larger reward. */
  accurate: number;
  logpChosen: number;
  logpRejected: number;
  /** Learned tokens of the preferred answers, and how many of them are the model's most likely. */
  chosenTokens: number;
  chosenCorrect: number;
}

export interface PreferenceOptions {
  /** Strength of the pull towards the reference, more than 0. */
  beta: number;
  /** Pairs of all micro-batches of this optimizer step. */
  pairsTotal: number;
  /** With `step` and `microBatch`, decides the dropout masks. */
  seed: number;
  step: number;
  microBatch: number;
  recompute?: boolean;
}

/** Per sequence of a batch. */
interface SequenceScores {
  /** Σ log-probability (natural) of the learned tokens, in float64. */
  logProbs: Float64Array;
  labelled: Int32Array;
  correct: Int32Array;
}

function emptyPreferenceSums(): PreferenceSums {
  return {
    ...{ pairs: 0, lossSum: 0, rewardChosen: 0, rewardRejected: 0, accurate: 0 },
    ...{ logpChosen: 0, logpRejected: 0, chosenTokens: 0, chosenCorrect: 0 },
  };
}

/** Log-probability of every sequence's learned tokens, without dropout: how a reference is measured. */
export function sequenceLogProbs(model: Model, batch: PackedBatch): Float64Array {
  const labels = labelledRows(batch);
  if (labels.rows.length === 0) return new Float64Array(batch.cuSeqlens.length - 1);
  return scope(() => {
    const x = packedForward(model, batch, labels.rows, { tape: null });
    return scoresOf(batch, labels, headLoss(model, null, x, labels.targets, 0)).logProbs;
  });
}

/**
 * Forward and backward of Σ loss / pairsTotal; adds to `.grad` of the model's trainable parameters. The head runs
 * twice: the gradient's weight of a row depends on the log-probabilities of its whole pair.
 * @param reference log ρ of every sequence of the batch
 * @throws RangeError when sequences do not come in pairs; Error when nothing is trainable
 */
export function accumulatePreferenceGradients(
  model: Model,
  batch: PackedBatch,
  reference: Float64Array,
  options: PreferenceOptions,
): PreferenceSums {
  const { beta, pairsTotal, seed, step, microBatch, recompute = false } = options;
  checkPairs(batch, reference);
  if (model.trainableParameters().size === 0)
    throw new Error('the model has nothing to train: open it with trainable');
  const labels = labelledRows(batch);
  return scope(() => {
    const tape = new Tape();
    try {
      const dropout = { seed, step, microBatch };
      const x = packedForward(model, batch, labels.rows, { tape, dropout, recompute });
      const scores = scoresOf(batch, labels, headLoss(model, null, x, labels.targets, 0));
      const { sums, slopes } = sigmoidLoss(scores, reference, beta);
      // loss_k depends on Σ cross-entropy of its sequences alone: each of their rows has the pair's slope.
      const rowScale = Float32Array.from(sequenceOfRows(batch, labels.rows), (sequence) => slopes[sequence]!);
      headLoss(model, tape, x, labels.targets, 1 / pairsTotal, rowScale);
      tape.backward();
      return sums;
    } finally {
      tape.dispose();
    }
  });
}

/** The same sums without dropout and without gradients. */
export function evaluatePreference(
  model: Model,
  batch: PackedBatch,
  reference: Float64Array,
  beta: number,
): PreferenceSums {
  checkPairs(batch, reference);
  const labels = labelledRows(batch);
  return scope(() => {
    const x = packedForward(model, batch, labels.rows, { tape: null });
    const scores = scoresOf(batch, labels, headLoss(model, null, x, labels.targets, 0));
    return sigmoidLoss(scores, reference, beta).sums;
  });
}

function checkPairs({ cuSeqlens }: PackedBatch, reference: Float64Array): void {
  const sequences = cuSeqlens.length - 1;
  if (sequences % 2 !== 0 || reference.length !== sequences) {
    throw new RangeError(`${sequences} sequences with ${reference.length} reference values are not pairs`);
  }
}

/** The sequence that each of the rows (ascending) lies in. */
function sequenceOfRows({ cuSeqlens }: PackedBatch, rows: Int32Array): Int32Array {
  let sequence = 0;
  return rows.map((row) => {
    while (row >= cuSeqlens[sequence + 1]!) sequence++;
    return sequence;
  });
}

function scoresOf(batch: PackedBatch, { rows }: LabelledRows, head: RowLosses): SequenceScores {
  const sequences = batch.cuSeqlens.length - 1;
  const scores = {
    logProbs: new Float64Array(sequences),
    labelled: new Int32Array(sequences),
    correct: new Int32Array(sequences),
  };
  const [losses, hits] = [head.losses.toFloat32(), head.correct.toInt32()];
  sequenceOfRows(batch, rows).forEach((sequence, i) => {
    scores.logProbs[sequence]! -= losses[i]!;
    scores.labelled[sequence]! += 1;
    scores.correct[sequence]! += hits[i]!;
  });
  return scores;
}

/** −log σ(z) = log(1 + e^−z), without overflow. */
const negativeLogSigmoid = (z: number): number => Math.max(-z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const sigmoid = (z: number): number => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));

/**
 * The loss of each pair, summed, and d loss / d(Σ cross-entropy) of each sequence: with loss = −log σ(βΔ),
 * ∂loss/∂log π(c) = −β·σ(−βΔ) and cross-entropy = −log π, so +β·σ(−βΔ) for the preferred answer, minus that for the other.
 */
function sigmoidLoss(
  { logProbs, labelled, correct }: SequenceScores,
  reference: Float64Array,
  beta: number,
): { sums: PreferenceSums; slopes: Float64Array } {
  const sums = emptyPreferenceSums();
  const slopes = new Float64Array(logProbs.length);
  for (let c = 0; c < logProbs.length; c += 2) {
    const r = c + 1;
    const rewardChosen = beta * (logProbs[c]! - reference[c]!);
    const rewardRejected = beta * (logProbs[r]! - reference[r]!);
    const margin = rewardChosen - rewardRejected;
    slopes[c] = beta * sigmoid(-margin);
    slopes[r] = -slopes[c]!;
    sums.pairs += 1;
    sums.lossSum += negativeLogSigmoid(margin);
    sums.rewardChosen += rewardChosen;
    sums.rewardRejected += rewardRejected;
    sums.accurate += rewardChosen > rewardRejected ? 1 : 0;
    sums.logpChosen += logProbs[c]!;
    sums.logpRejected += logProbs[r]!;
    sums.chosenTokens += labelled[c]!;
    sums.chosenCorrect += correct[c]!;
  }
  return { sums, slopes };
}
