/**
 * Opens a model with its adapter and optimizer, fresh or from a checkpoint, and writes all of it into a checkpoint
 * folder. What is written here is all that a resume needs: training continues bit for bit.
 */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import type { Device } from '../engine/device.ts';
import { openSafetensors, writeSafetensors } from '../engine/io/safetensors.ts';
import { type Model, openModel } from '../engine/models/index.ts';
import { AdamW } from '../engine/optim/index.ts';
import { LoraAdapter } from '../engine/peft/lora.ts';
import { scope } from '../engine/tensor.ts';
import { FORMAT_VERSION, STATE_FILES } from './checkpoint.ts';
import { metricNames } from './measured.ts';
import type { TrainRequest } from './messages.ts';
import { StepMetrics } from './step-metrics.ts';
import type { LoopState } from './train.ts';

export interface Training {
  model: Model;
  optimizer: AdamW;
  state: LoopState;
  /** Preference jobs: log-probabilities of the frozen start, see reference.ts; null before they are measured. */
  reference: Float64Array | null;
}

/** What a full model's folder needs beside weights and config to be loaded by others. */
const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'tokenizer.model',
];

const stateSchema = z.strictObject({
  format_version: z.literal(FORMAT_VERSION),
  step: z.int().min(0),
  total_steps: z.int().min(1),
  seed: z.int(),
  batch_size: z.int().min(1),
  steps_per_epoch: z.int().min(1),
  trained_tokens: z.int().min(0),
});

/**
 * Opens everything on the device: from the base model, from the tuned model that the job starts from (with a fresh
 * optimizer), or from a checkpoint of the job itself. @throws ModelConfigError, LoraConfigError, or an Error for a foreign checkpoint
 */
export function openTraining(request: TrainRequest, device: Device): Training {
  const { plan, adapter, resumeDir } = request;
  const isFull = adapter.peft_type === 'FULL';
  const from = resumeDir ?? request.startDir;
  const modelDir = isFull && from ? from : request.modelDir;
  const model = openModel(modelDir, device, { dtype: plan.dtype, trainable: isFull });
  if (!isFull) {
    const { peft_type: _, ...config } = adapter;
    const attached = from ? LoraAdapter.load(from, model) : LoraAdapter.create(model, config, plan.seed);
    // Dropout belongs to the training, not to the weights: this job's counts, whatever the start was trained with.
    attached.config.lora_dropout = config.lora_dropout;
    model.attach(attached);
  }
  const optimizer = new AdamW(model.trainableParameters(), {
    betas: plan.betas,
    eps: plan.epsilon,
    weightDecay: plan.weightDecay,
  });
  const state = resumeDir
    ? readState(resumeDir, request, optimizer, device)
    : { step: 0, trainedTokens: 0, metrics: StepMetrics.empty(metricNames(plan.method.type)) };
  return { model, optimizer, state, reference: resumeDir ? readReference(resumeDir) : null };
}

function readState(dir: string, { plan }: TrainRequest, optimizer: AdamW, device: Device): LoopState {
  const saved = stateSchema.parse(JSON.parse(readFileSync(path.join(dir, STATE_FILES.trainer), 'utf8')));
  const expected = {
    total_steps: plan.totalSteps,
    seed: plan.seed,
    batch_size: plan.batchSize,
    steps_per_epoch: plan.stepsPerEpoch,
  };
  for (const [name, value] of Object.entries(expected)) {
    const found = saved[name as keyof typeof expected];
    if (found !== value)
      throw new Error(`the checkpoint was made with ${name} ${found}, the job has ${value}`);
  }
  const file = openSafetensors(path.join(dir, STATE_FILES.optimizer));
  scope(() =>
    optimizer.loadState((name) => (file.tensors.has(name) ? file.load(device, name) : undefined), saved.step),
  );
  const csv = readFileSync(path.join(dir, STATE_FILES.metrics), 'utf8');
  return {
    step: saved.step,
    trainedTokens: saved.trained_tokens,
    metrics: StepMetrics.parse(csv, saved.step, metricNames(plan.method.type)),
  };
}

/** Little-endian float64, training pairs first, then validation pairs; null where the checkpoint has none. */
function readReference(dir: string): Float64Array | null {
  const file = path.join(dir, STATE_FILES.reference);
  if (!existsSync(file)) return null;
  const bytes = new Uint8Array(readFileSync(file)); // a copy: aligned for 8-byte numbers
  return new Float64Array(bytes.buffer);
}

/**
 * Writes the checkpoint's files, all but the manifest, into an empty folder. `breathe` is called around the big ones:
 * each blocks the thread while it is written.
 */
export async function writeTraining(
  dir: string,
  request: TrainRequest,
  training: Training,
  breathe: () => Promise<unknown>,
): Promise<void> {
  const { model, optimizer, state } = training;
  const { plan } = request;
  await breathe();
  if (model.adapter) await model.adapter.save(dir, { baseModelName: request.baseModel });
  else {
    await model.save(dir);
    for (const name of TOKENIZER_FILES) {
      const source = path.join(request.modelDir, name);
      if (existsSync(source)) copyFileSync(source, path.join(dir, name));
    }
  }
  await breathe();
  writeSafetensors(path.join(dir, STATE_FILES.optimizer), optimizer.state());
  await breathe();
  const saved: z.infer<typeof stateSchema> = {
    format_version: FORMAT_VERSION,
    step: state.step,
    total_steps: plan.totalSteps,
    seed: plan.seed,
    batch_size: plan.batchSize,
    steps_per_epoch: plan.stepsPerEpoch,
    trained_tokens: state.trainedTokens,
  };
  writeFileSync(path.join(dir, STATE_FILES.trainer), `${JSON.stringify(saved, null, 2)}\n`);
  writeFileSync(path.join(dir, STATE_FILES.metrics), state.metrics.text());
  const { reference } = training;
  if (reference) writeFileSync(path.join(dir, STATE_FILES.reference), new Uint8Array(reference.buffer));
}
