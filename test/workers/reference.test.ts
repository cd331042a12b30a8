// The reference of preference jobs: measured once, in parts when it must stop, the same to the last bit either way.
import { afterAll, describe, expect, it } from 'vitest';
import { Dataset } from '../../workers/engine/data/dataset.ts';
import { openDevice } from '../../workers/engine/device.ts';
import type { JobData } from '../../workers/trainer/dataset.ts';
import { prepareObjective } from '../../workers/trainer/objective.ts';
import type { TrainingPlan } from '../../workers/trainer/plan.ts';
import { emptyReference, measureReference, splitReference } from '../../workers/trainer/reference.ts';
import type { Training } from '../../workers/trainer/training-state.ts';
import { randomIds, tinyModel } from '../engine/tiny.ts';

const device = openDevice({ kind: 'cpu' });
const model = tinyModel(device, { trainable: false });
afterAll(() => model.dispose());

const plan = {
  method: { type: 'dpo', beta: 0.1 },
  ...{ seed: 3, batchSize: 2, maxTokensPerPack: 24, stepsPerEpoch: 4, totalSteps: 8 },
} as TrainingPlan;

function pairs(count: number, seed: number): Dataset {
  const set = new Dataset(2);
  for (let i = 0; i < 2 * count; i++) {
    const length = 4 + ((5 * i) % 7);
    const learn = Array.from({ length }, (_, at) => at >= 2);
    set.add(randomIds(length, seed + i), learn);
  }
  return set;
}

const data: JobData = { training: pairs(8, 100), validation: pairs(3, 500) };
const measure = (values: Float64Array, turn: () => Promise<boolean>, change: Partial<TrainingPlan> = {}) =>
  measureReference({
    ...{ model, data, turn, plan: { ...plan, ...change } },
    reference: splitReference(values, data),
  });
const goOn = async () => false;

describe('measureReference', () => {
  it('stops when told to, keeps what it has, and ends with the same bits', async () => {
    const whole = emptyReference(data);
    expect(await measure(whole, goOn)).toBe(true);
    expect(whole).toHaveLength(22);
    expect(whole.every((value) => value < 0)).toBe(true);

    const parts = emptyReference(data);
    let turns = 0;
    expect(await measure(parts, async () => ++turns === 2)).toBe(false);
    const kept = parts.filter((value) => !Number.isNaN(value)).length;
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThan(22);
    expect(await measure(parts, goOn)).toBe(true);
    expect(Buffer.from(parts.buffer).equals(Buffer.from(whole.buffer))).toBe(true);
    // Packed otherwise, the same: a row does not depend on its neighbours.
    const wide = emptyReference(data);
    await measure(wide, goOn, { maxTokensPerPack: 500 });
    expect([...wide]).toEqual([...whole]);
  });

  it('measures only the pairs that a short job sees', async () => {
    const values = emptyReference(data);
    await measure(values, goOn, { totalSteps: 1 });
    const { training, validation } = splitReference(values, data);
    expect(training.filter((value) => !Number.isNaN(value))).toHaveLength(4);
    expect(validation.some(Number.isNaN)).toBe(false);
  });
});

describe('prepareObjective', () => {
  const training = (step: number): Training =>
    ({ model, state: { step }, reference: null }) as unknown as Training;

  it('saves what it measured when it must stop, and once when it took long', async () => {
    const saved: string[] = [];
    const save = async (kind: string) => void saved.push(kind);
    const stopped = training(0);
    const stop = { turn: async () => true, isSaveDue: () => false, save };
    expect(await prepareObjective({ plan }, data, stopped, stop)).toBeNull();
    expect(saved).toEqual(['state']);
    expect(stopped.reference!.some((value) => !Number.isNaN(value))).toBe(true);
    const long = { turn: goOn, isSaveDue: () => true, save };
    expect(await prepareObjective({ plan }, data, stopped, long)).not.toBeNull();
    expect(saved).toEqual(['state', 'state']);
    expect(stopped.reference!.some(Number.isNaN)).toBe(false);
  });

  it('refuses a checkpoint of other data, and never measures with trained weights', async () => {
    const preparation = { turn: goOn, isSaveDue: () => false, save: async () => {} };
    const foreign = { ...training(3), reference: new Float64Array(4) };
    await expect(prepareObjective({ plan }, data, foreign, preparation)).rejects.toThrow(
      'holds 4 reference log-probabilities, the data needs 22',
    );
    const late = training(3);
    const objective = await prepareObjective({ plan }, data, late, preparation);
    const batch = { ...data.training.get(0)[0]!, examples: [0] } as never;
    expect(() => objective!.evaluate(model, batch)).toThrow('log-probabilities of a pair are missing');
  });
});
