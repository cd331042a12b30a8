// The training loop with recorded micro-batches: LoRA on the shipped model and its example rows, on a device that keeps
// native calls and runs those again. Recording changes nothing at all, padding nothing but the order of sums, and a run
// that was stopped and resumed ends in the same bytes.
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PROJECT_ROOT } from '../../src/config.ts';
import type { Dataset } from '../../workers/engine/data/dataset.ts';
import { loadDataset } from '../../workers/engine/data/validate.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { recordedGradients } from '../../workers/engine/losses/supervised.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { Failpoints } from '../../workers/trainer/failpoints.ts';
import type { TrainRequest } from '../../workers/trainer/messages.ts';
import { supervisedObjective } from '../../workers/trainer/objective.ts';
import type { TrainingPlan } from '../../workers/trainer/plan.ts';
import { train } from '../../workers/trainer/train.ts';
import { openTraining, writeTraining } from '../../workers/trainer/training-state.ts';
import { recordingDevice } from '../engine/recording.ts';

const modelDir = path.join(PROJECT_ROOT, 'models/lathe-tiny');
const STEPS = 12;
const plan: TrainingPlan = {
  ...{ method: { type: 'supervised' }, seed: 7, batchSize: 4, maxTokensPerPack: 200, stepsPerEpoch: STEPS },
  ...{ totalSteps: STEPS, learningRate: 2e-3, schedule: 'linear', warmupSteps: 2, weightDecay: 0.01 },
  ...{ betas: [0.9, 0.999], epsilon: 1e-8, maxGradNorm: 1, evalSteps: null, saveSteps: 5, loggingSteps: 1 },
  dtype: 'bf16',
};

const scratch = mkdtempSync(path.join(tmpdir(), 'lathe-recorded-'));
let training: Dataset;
beforeAll(async () => {
  const rows = path.join(PROJECT_ROOT, 'examples/data/train.jsonl');
  const loaded = await loadDataset(rows, loadTokenizer(modelDir), { maxLength: 2048, overlong: 'error' });
  training = loaded.dataset;
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

interface Outcome {
  losses: number[];
  /** Checkpoint folders in the order of their steps. */
  folders: string[];
  adapter: Buffer;
  recorded: number;
  runs: number;
}

type Way = 'recorded' | 'padded' | 'plain';

async function run(way: Way, resumeDir: string | null = null): Promise<Outcome> {
  const { device, recorder, counts } = recordingDevice(openDevice({ kind: 'cpu' }).native);
  const folder = mkdtempSync(path.join(scratch, `${way}-`));
  const request: TrainRequest = {
    ...{
      type: 'train',
      device: { kind: 'cpu' },
      modelDir,
      baseModel: 'lathe-tiny',
      plan,
      resumeDir,
      startDir: null,
    },
    checkpointsDir: folder,
    adapter: {
      ...{ peft_type: 'LORA', r: 8, lora_alpha: 16, lora_dropout: 0, target_modules: 'all-linear' },
      use_rslora: false,
    },
  };
  const opened = openTraining(request, device);
  const options = { recompute: false, tokensMax: 512, recorder: way === 'recorded' ? recorder : null };
  const recorded = way === 'plain' ? null : recordedGradients(opened.model, options);
  const [losses, folders]: [number[], string[]] = [[], []];
  try {
    await train({
      ...opened,
      ...{
        plan,
        objective: supervisedObjective(recorded),
        recompute: false,
        data: { training, validation: null },
      },
      failpoints: new Failpoints([], 0),
      report: ({ train: numbers }) => losses.push(numbers!.loss),
      save: async () => {
        const dir = path.join(folder, `${opened.state.step}`);
        mkdirSync(dir);
        await writeTraining(dir, request, opened, async () => {});
        folders.push(dir);
      },
      ...{ isSaveDue: () => false, alive: () => {}, isPausing: () => false, turn: async () => false },
    });
  } finally {
    recorded?.dispose();
    opened.optimizer.dispose();
    opened.model.adapter?.dispose();
    opened.model.dispose();
  }
  const adapter = readFileSync(path.join(folders.at(-1)!, 'adapter_model.safetensors'));
  return { losses, folders, adapter, recorded: counts.recorded, runs: counts.runs };
}

describe('training with recorded micro-batches', () => {
  let whole: Outcome;
  beforeAll(async () => {
    whole = await run('recorded');
  });

  it('replays most of them', () => {
    expect(whole.losses).toHaveLength(STEPS);
    expect(whole.losses.at(-1)!).toBeLessThan(whole.losses[0]!);
    expect(whole.recorded).toBeGreaterThan(1);
    expect(whole.runs).toBeGreaterThan(STEPS);
  });

  it('has the losses and the adapter of the same padded batches op by op', async () => {
    const padded = await run('padded');
    expect(padded.recorded).toBe(0);
    expect(padded.losses).toEqual(whole.losses);
    expect(padded.adapter.equals(whole.adapter)).toBe(true);
  });

  it('follows the run without padding', async () => {
    const plain = await run('plain');
    // Zeros at the end of sums over tokens: equal bits here, a few roundings where blocks of a sum end elsewhere.
    for (const [i, loss] of plain.losses.entries())
      expect(Math.abs(loss - whole.losses[i]!) / loss, `step ${i + 1}`).toBeLessThan(1e-5);
  });

  it('ends in the same bytes when it is resumed in the middle', async () => {
    const resumed = await run('recorded', whole.folders[0]!);
    expect(resumed.losses).toEqual(whole.losses.slice(5));
    expect(resumed.adapter.equals(whole.adapter)).toBe(true);
  });
});
