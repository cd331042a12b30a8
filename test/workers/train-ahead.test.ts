// The training loop on a device that works ahead: steps are read one step late, and nothing else may differ. The device
// here is the CPU that says it works ahead; its deferred reads are copies of the moment, as a GPU's are.
import { describe, expect, it } from 'vitest';
import { Dataset } from '../../workers/engine/data/dataset.ts';
import { Device, openDevice } from '../../workers/engine/device.ts';
import { AdamW } from '../../workers/engine/optim/index.ts';
import { Failpoints } from '../../workers/trainer/failpoints.ts';
import { supervisedObjective } from '../../workers/trainer/objective.ts';
import type { TrainingPlan } from '../../workers/trainer/plan.ts';
import { StepMetrics } from '../../workers/trainer/step-metrics.ts';
import { type TrainingRun, train } from '../../workers/trainer/train.ts';
import { randomIds, tinyModel } from '../engine/tiny.ts';

class AheadDevice extends Device {
  override get worksAhead(): boolean {
    return true;
  }
}

const plan: TrainingPlan = {
  ...{ method: { type: 'supervised' }, seed: 3, batchSize: 2, maxTokensPerPack: 64, stepsPerEpoch: 4 },
  ...{ totalSteps: 8, learningRate: 1e-2, schedule: 'linear', warmupSteps: 1, weightDecay: 0.01 },
  ...{ betas: [0.9, 0.999], epsilon: 1e-8, maxGradNorm: 1, evalSteps: 3, saveSteps: 5, loggingSteps: 1 },
  dtype: 'f32',
};

function dataset(count: number, seed: number): Dataset {
  const data = new Dataset();
  for (let i = 0; i < count; i++) {
    const ids = randomIds(9 + i, seed + i);
    data.add(
      ids,
      Array.from(ids, () => true),
    );
  }
  return data;
}

interface Told {
  reports: Record<string, unknown>[];
  saves: { step: number; metrics: Record<string, number>; lines: number }[];
  /** What happened, in order. */
  order: string[];
  csv: string;
  weights: Float32Array;
  end: string;
}

async function runOn(device: Device, changes: Partial<TrainingPlan> = {}, stopAt = 99): Promise<Told> {
  const model = tinyModel(device);
  const chosen = { ...plan, ...changes };
  const optimizer = new AdamW(model.trainableParameters(), { weightDecay: plan.weightDecay });
  const state = { step: 0, trainedTokens: 0, metrics: StepMetrics.empty() };
  const told: Told = { reports: [], saves: [], order: [], csv: '', weights: new Float32Array(), end: '' };
  const run: TrainingRun = {
    ...{ model, optimizer, plan: chosen, state, objective: supervisedObjective(), recompute: false },
    data: { training: dataset(8, 100), validation: dataset(3, 500) },
    failpoints: new Failpoints([], 0),
    report: ({ train: numbers, ...rest }) => {
      const { tokensPerSecond: _speed, etaSeconds: _eta, ...kept } = numbers ?? {};
      told.reports.push({ ...rest, ...kept });
      told.order.push(`report ${rest.step}`);
    },
    save: async (_kind, metrics) => {
      expect(optimizer.stepCount).toBe(state.step);
      told.saves.push({
        step: state.step,
        metrics,
        lines: state.metrics.text().trim().split('\n').length - 1,
      });
      told.order.push(`save ${state.step}`);
    },
    ...{ isSaveDue: () => false, alive: () => {}, isPausing: () => false },
    turn: async () => {
      told.order.push(`turn ${state.step}`);
      return state.step >= stopAt;
    },
  };
  try {
    told.end = await train(run);
  } finally {
    told.csv = state.metrics.text();
    const [weight] = model.parameters().values();
    told.weights = weight!.toFloat32();
    optimizer.dispose();
    model.dispose();
  }
  return told;
}

const cpu = openDevice({ kind: 'cpu' });
const ahead = new AheadDevice('cpu', cpu.native);

describe('training on a device that works ahead', () => {
  it('gives the same weights, reports and checkpoints', async () => {
    const [now, later] = [await runOn(cpu), await runOn(ahead)];
    expect(later.end).toBe('finished');
    expect(later.reports).toEqual(now.reports);
    expect(later.saves).toEqual(now.saves);
    expect(later.saves.map(({ step, lines }) => [step, lines])).toEqual([
      [4, 4],
      [5, 5],
      [8, 8],
    ]);
    expect(later.csv).toBe(now.csv);
    expect(later.weights).toEqual(now.weights);
  });

  it('reports a step once the next has been asked for, unless its numbers are needed before', async () => {
    const { order } = await runOn(ahead);
    const steps = order.filter((what) => !what.startsWith('turn 0'));
    expect(steps.indexOf('turn 1')).toBeLessThan(steps.indexOf('report 1'));
    expect(steps.indexOf('report 3')).toBeLessThan(steps.indexOf('turn 3')); // evaluated
    expect(steps.indexOf('report 5')).toBeLessThan(steps.indexOf('save 5'));
  });

  it('saves what it stands at when it is told to stop', async () => {
    const { saves, end, reports } = await runOn(ahead, {}, 2);
    expect(end).toBe('stopped');
    expect(saves.map(({ step, lines }) => [step, lines])).toEqual([[2, 2]]);
    expect(reports.at(-1)).toMatchObject({ step: 2 });
  });

  it('fails a step whose numbers are not finite, with nothing saved after it', async () => {
    const ruined = runOn(ahead, { learningRate: 1e38, schedule: 'constant', warmupSteps: 0 });
    await expect(ruined).rejects.toThrow(
      /diverged at step \d: the (training|validation) loss is|gradient norm is/,
    );
  });

  it('takes no limit of the norm as no clipping', async () => {
    const [none, huge] = [
      await runOn(cpu, { maxGradNorm: Number.POSITIVE_INFINITY }),
      await runOn(cpu, { maxGradNorm: 1e30 }),
    ];
    expect(none.weights).toEqual(huge.weights);
  });
});
