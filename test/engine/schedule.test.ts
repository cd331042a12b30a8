import { describe, expect, it } from 'vitest';
import { learningRateAt, type Schedule } from '../../workers/engine/optim/schedule.ts';

const table = (schedule: Schedule, steps: number[]) => steps.map((step) => learningRateAt(step, schedule));

describe('learningRateAt', () => {
  const base = { learningRate: 1, warmupSteps: 4, totalSteps: 12 };

  it('warms up from 0 and stays constant', () => {
    expect(table({ ...base, type: 'constant' }, [0, 1, 2, 4, 11])).toEqual([0, 0.25, 0.5, 1, 1]);
  });

  it('falls linearly to 0 at totalSteps', () => {
    expect(table({ ...base, type: 'linear' }, [0, 3, 4, 6, 8, 11, 12, 40])).toEqual([
      0, 0.75, 1, 0.75, 0.5, 0.125, 0, 0,
    ]);
  });

  it('follows half a cosine', () => {
    const rates = table({ ...base, type: 'cosine' }, [4, 6, 8, 10, 12]);
    expect(rates[0]).toBe(1);
    expect(rates[1]).toBeCloseTo((1 + Math.SQRT1_2) / 2, 12);
    expect(rates[2]).toBeCloseTo(0.5, 12);
    expect(rates[3]).toBeCloseTo((1 - Math.SQRT1_2) / 2, 12);
    expect(rates[4]).toBeCloseTo(0, 12);
  });

  it('starts at the peak without warm-up', () => {
    expect(learningRateAt(0, { ...base, type: 'linear', warmupSteps: 0 })).toBe(1);
  });

  it('stays finite when everything is warm-up', () => {
    expect(table({ type: 'linear', learningRate: 1, warmupSteps: 2, totalSteps: 2 }, [1, 2])).toEqual([
      0.5, 1,
    ]);
  });
});
