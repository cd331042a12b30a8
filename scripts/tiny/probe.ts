/**
 * How well the model answers: fixed questions of each kind, scored by exact match. With the right answer fed in, an
 * answer whose every token is the model's first choice is exactly what greedy decoding would write.
 */
import { shift } from '../../workers/engine/data/encode.ts';
import { concatenate } from '../../workers/engine/data/pack.ts';
import { evaluate } from '../../workers/engine/losses/supervised.ts';
import type { Model } from '../../workers/engine/models/index.ts';
import type { Tokenizer } from '../../workers/engine/tokenizer/load.ts';
import { formatSample } from './formats.ts';
import { generalTurn } from './general-questions.ts';
import { orderRows } from './orders.ts';
import { Random } from './random.ts';
import { copyingSample, readingSample } from './reading.ts';
import { conversation, type Sample } from './sample.ts';
import { townTurn, unknownTurn } from './town-questions.ts';
import { sampleSequence } from './training-data.ts';
import { createWorld } from './world.ts';

export interface ProbeResult {
  exact: Record<string, number>;
  /** Mean loss per answer token over all probes but the orders. */
  loss: number;
  tokenAccuracy: number;
}

function probeSamples(count: number): Record<string, Sample[]> {
  const random = new Random(20_261_121);
  const world = createWorld();
  const many = (draw: () => Sample) => Array.from({ length: count }, draw);
  return {
    town: many(() => conversation([townTurn(world, random)])),
    general: many(() => conversation([generalTurn(random)])),
    unknown: many(() => conversation([unknownTurn(random)])),
    reading: many(() => readingSample(random)),
    copying: many(() => copyingSample(random)),
    formats: many(() => formatSample(random)),
    orders: orderRows({ train: 400, valid: 60, heldout: 60 }).heldout.slice(0, count),
  };
}

/** Exact-match share per kind; `orders` is the example task, which the base model should not be able to do. */
export function probe(model: Model, tokenizer: Tokenizer, count = 50): ProbeResult {
  const exact: Record<string, number> = {};
  let [lossSum, labelled, correct] = [0, 0, 0];
  for (const [kind, samples] of Object.entries(probeSamples(count))) {
    let hits = 0;
    for (const sample of samples) {
      const sequence = sampleSequence(sample, tokenizer, false);
      const sums = evaluate(model, concatenate([shift(sequence.tokens, sequence.learn)]));
      if (sums.correct === sums.labelled) hits++;
      if (kind === 'orders') continue;
      lossSum += sums.lossSum;
      labelled += sums.labelled;
      correct += sums.correct;
    }
    exact[kind] = hits / samples.length;
  }
  return { exact, loss: lossSum / labelled, tokenAccuracy: correct / labelled };
}
