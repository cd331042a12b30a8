/**
 * A real fine-tuning run through the trainer's own child process: the example task on the shipped model to its usual
 * loss, then once more with the process killed in the middle and resumed. Equal adapters prove that runs repeat byte
 * for byte and that a kill loses nothing.
 */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PROJECT_ROOT } from '../../src/config.ts';
import type { DeviceOptions } from '../../workers/engine/device.ts';
import { TrainerChild } from '../../workers/trainer/child-process.ts';
import type { FromChild } from '../../workers/trainer/messages.ts';
import type { TrainingPlan } from '../../workers/trainer/plan.ts';
import { round } from '../options.ts';
import type { Context } from './report.ts';

const modelDir = path.join(PROJECT_ROOT, 'models', 'lathe-tiny');
const data = path.join(PROJECT_ROOT, 'examples', 'data');

const BATCH_SIZE = 8;
const EPOCHS = 4;
/** The example task is learned when the held-out loss has fallen from above 2 to below this. */
const USUAL_LOSS = 0.15;

interface Run {
  adapter: string;
  firstLoss: number;
  lastLoss: number;
  seconds: number;
  steps: number;
  resumedAt: number | null;
}

export async function checkTrainingRun(device: DeviceOptions, { report }: Context): Promise<void> {
  const whole = await train(device, null);
  report.keys.tiny_train_seconds = round(whole.seconds);
  report.keys.tiny_valid_loss_before = round(whole.firstLoss, 4);
  report.keys.tiny_valid_loss = round(whole.lastLoss, 4);
  report.judge(
    `LoRA on lathe-tiny, ${whole.steps} steps in ${round(whole.seconds)} s: validation loss`,
    `${whole.firstLoss.toFixed(2)} → ${whole.lastLoss.toFixed(3)}`,
    `≤ ${USUAL_LOSS}`,
    whole.firstLoss > 2 && whole.lastLoss <= USUAL_LOSS,
  );
  const killAfter = 5 + Math.floor(Math.random() * (whole.steps - 10));
  const resumed = await train(device, killAfter);
  const equal = resumed.adapter === whole.adapter;
  report.keys.kill_after_step = killAfter;
  report.keys.resumed_at_step = resumed.resumedAt;
  report.keys.resume_bit_exact = equal;
  report.judge(
    `killed after step ${killAfter}, resumed at ${resumed.resumedAt}: adapter`,
    resumed.adapter.slice(0, 16),
    `= ${whole.adapter.slice(0, 16)} of the uninterrupted run`,
    equal,
  );
}

/** Trains the example task once, from its start, in a child of its own. @throws JobFailed, ChildCrashed */
export async function trainOnce(device: DeviceOptions, scratch: string): Promise<void> {
  const child = new TrainerChild({
    stallSeconds: 60,
    onOutput: (line) => process.stderr.write(`   ${line}\n`),
    onMessage: () => {},
  });
  try {
    await follow(child, device, scratch, null);
  } finally {
    await child.exited;
  }
}

class Killed extends Error {}

/** Trains to the end; with `killAfter` the child is killed after that step and a new one goes on. */
async function train(device: DeviceOptions, killAfter: number | null): Promise<Run> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'lathe-check-'));
  const began = performance.now();
  const losses: number[] = [];
  let newest: { dir: string; step: number } | null = null;
  let resumedAt: number | null = null;
  let steps = 0;
  try {
    for (let attempt = 0; ; attempt++) {
      const child = new TrainerChild({
        stallSeconds: 60,
        onOutput: (line) => process.stderr.write(`   ${line}\n`),
        onMessage: (message: FromChild) => {
          if (message.type === 'step') {
            steps = message.step;
            if (message.fullValidation) losses.push(message.fullValidation.loss);
            if (attempt === 0 && message.step === killAfter) child.kill(new Killed('as planned'));
          } else if (message.type === 'checkpoint') {
            newest = { dir: message.dir, step: message.step };
            child.send({ type: 'checkpoint_stored', step: message.step });
          } else if (message.type === 'warning') process.stderr.write(`   ${message.message}\n`);
        },
      });
      try {
        await follow(child, device, scratch, newest);
        await child.exited;
        break;
      } catch (error) {
        await child.exited;
        if (!(error instanceof Killed)) throw error;
        resumedAt = (newest as { step: number } | null)?.step ?? 0;
      }
    }
    const { dir } = newest!;
    const adapter = createHash('sha256')
      .update(readFileSync(path.join(dir, 'adapter_model.safetensors')))
      .digest('hex');
    const seconds = (performance.now() - began) / 1000;
    return { adapter, firstLoss: losses[0]!, lastLoss: losses.at(-1)!, seconds, steps, resumedAt };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function follow(
  child: TrainerChild,
  device: DeviceOptions,
  scratch: string,
  newest: { dir: string } | null,
): Promise<void> {
  child.send({
    type: 'prepare',
    modelDir,
    method: 'supervised',
    fileIds: { training_file: 'train.jsonl', validation_file: 'valid.jsonl' },
    trainingPath: path.join(data, 'train.jsonl'),
    validationPath: path.join(data, 'valid.jsonl'),
    maxLength: 2048,
    overlong: 'error',
    minExamples: 1,
    failpoints: [],
  });
  const { training } = await child.until('prepared');
  child.send({
    type: 'train',
    device,
    modelDir,
    baseModel: 'lathe-tiny',
    adapter: {
      peft_type: 'LORA',
      r: 8,
      lora_alpha: 16,
      lora_dropout: 0, // so that micro-batches are recorded where the device records
      target_modules: 'all-linear',
      use_rslora: false,
    },
    plan: planFor(training.examples),
    checkpointsDir: scratch,
    resumeDir: newest?.dir ?? null,
    startDir: null,
  });
  await child.until('finished');
}

function planFor(examples: number): TrainingPlan {
  const stepsPerEpoch = Math.ceil(examples / BATCH_SIZE);
  return {
    method: { type: 'supervised' },
    seed: 7,
    batchSize: BATCH_SIZE,
    maxTokensPerPack: 2048,
    stepsPerEpoch,
    totalSteps: EPOCHS * stepsPerEpoch,
    learningRate: 2e-3,
    schedule: 'linear',
    warmupSteps: 6,
    weightDecay: 0,
    betas: [0.9, 0.999],
    epsilon: 1e-8,
    maxGradNorm: 1,
    evalSteps: null,
    saveSteps: 10,
    loggingSteps: 1,
    dtype: 'bf16',
  };
}
