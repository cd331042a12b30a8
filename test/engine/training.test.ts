import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { accumulateGradients, evaluate, type LossSums } from '../../workers/engine/losses/supervised.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import type { PackedBatch } from '../../workers/engine/models/packed.ts';
import { AdamW } from '../../workers/engine/optim/adamw.ts';
import { learningRateAt } from '../../workers/engine/optim/schedule.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/lora.ts';
import type { FloatDType } from '../../workers/engine/tensor.ts';
import { generateNaive } from '../helpers/generate-naive.ts';
import { disposeAfterEach, ownFolder } from '../helpers/owned.ts';
import { labelledCount, packSequences, randomIds, relativeError, tinyModel } from './tiny.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

type Method = 'full' | 'lora';
const sequences = [randomIds(9, 1), randomIds(24, 2), randomIds(17, 3)];
const whole = packSequences(sequences);

function prepared(
  method: Method,
  options: Parameters<typeof tinyModel>[1] & { dropout?: number } = {},
): Model {
  const model = own(tinyModel(device, options));
  if (method === 'full') return model;
  const config = { ...LORA_DEFAULTS, r: 16, lora_alpha: 32, lora_dropout: options.dropout ?? 0 };
  const adapter = own(LoraAdapter.create(model, config, 5));
  for (const [name, tensor] of adapter.parameters()) {
    if (name.includes('lora_B')) device.native.randomNormal(tensor.handle, 0, 0.1, 6, name.length);
  }
  model.attach(adapter);
  return model;
}

/** Losses and gradients of one step made of the given micro-batches. */
function stepOf(model: Model, batches: PackedBatch[], recompute = false) {
  const labelledTotal = batches.reduce((sum, batch) => sum + labelledCount(batch), 0);
  for (const tensor of model.trainableParameters().values()) {
    if (tensor.grad !== null) device.native.fill(tensor.grad.handle, 0);
  }
  const sums = batches.map((batch, microBatch) =>
    accumulateGradients(model, batch, { labelledTotal, seed: 1, step: 0, microBatch, recompute }),
  );
  const gradients = [...model.trainableParameters()].map(([name, tensor]) => ({
    name,
    values: tensor.grad!.toFloat32(),
  }));
  return { loss: sums.reduce((sum, { lossSum }) => sum + lossSum, 0) / labelledTotal, gradients };
}

const VARIANTS: [string, Record<string, unknown>][] = [
  ['qwen3, tied', {}],
  ['qwen3, untied', { tie_word_embeddings: false }],
  ['qwen2', { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'] }],
  ['llama', { model_type: 'llama', architectures: ['LlamaForCausalLM'] }],
  [
    'qwen2, window 5',
    {
      model_type: 'qwen2',
      architectures: null,
      use_sliding_window: true,
      sliding_window: 5,
      max_window_layers: 1,
    },
  ],
];

describe.each<Method>(['full', 'lora'])('a step of %s training', (method) => {
  it.each(VARIANTS)('has the gradient of its loss (%s)', (_, config) => {
    const model = prepared(method, { config });
    const { gradients } = stepOf(model, [whole]);
    const loss = () => evaluate(model, whole).lossSum / labelledCount(whole);
    // along the gradient itself: every tensor contributes, and the slope must be its squared norm
    const squared = gradients.reduce((sum, { values }) => sum + values.reduce((s, g) => s + g * g, 0), 0);
    const [parameters, step] = [model.trainableParameters(), 2e-3 / Math.sqrt(squared)];
    const move = (factor: number) => {
      for (const tensor of parameters.values())
        device.native.axpy(tensor.handle, factor * step, tensor.grad!.handle);
    };
    move(1);
    const up = loss();
    move(-2);
    const slope = (up - loss()) / (2 * step);
    expect(Math.abs(slope / squared - 1)).toBeLessThan(2e-3);
  });

  it('does not depend on packing or micro-batches', () => {
    const model = prepared(method);
    const packed = stepOf(model, [whole]);
    const single = stepOf(
      model,
      sequences.map((ids) => packSequences([ids])),
    );
    expect(Math.abs(single.loss / packed.loss - 1)).toBeLessThan(1e-6);
    for (const [i, { name, values }] of packed.gradients.entries()) {
      expect(relativeError(single.gradients[i]!.values, values), name).toBeLessThan(1e-5);
    }
  });

  it.each<FloatDType>(['f32', 'bf16'])('gives the same bytes with and without recompute (%s)', (dtype) => {
    const model = prepared(method, { dtype, dropout: 0.2 });
    expect(stepOf(model, [whole], true)).toEqual(stepOf(model, [whole], false));
  });

  it.each<FloatDType>(['f32', 'bf16'])('leaks nothing (%s)', (dtype) => {
    const model = prepared(method, { dtype, dropout: 0.1 });
    const adamw = own(new AdamW(model.trainableParameters()));
    const step = (recompute: boolean) => {
      adamw.zeroGrad();
      accumulateGradients(model, whole, { labelledTotal: 50, seed: 1, step: 0, microBatch: 0, recompute });
      expect(adamw.step(1e-4, { maxGradNorm: 1 }).applied).toBe(true);
      evaluate(model, whole);
      model.logits(whole, Int32Array.of(1, 2));
    };
    step(false);
    const before = device.memory().inUse;
    step(false);
    step(true);
    expect(device.memory().inUse).toBe(before);
  });

  it('is close to f32 in bf16', () => {
    const exact = stepOf(prepared(method), [whole]);
    const rounded = stepOf(prepared(method, { dtype: 'bf16' }), [whole]);
    expect(Math.abs(rounded.loss / exact.loss - 1)).toBeLessThan(0.02);
    const flat = (step: typeof exact) => step.gradients.flatMap(({ values }) => [...values]);
    expect(relativeError(flat(rounded), flat(exact))).toBeLessThan(0.1);
  });

  it('refuses non-finite gradients and keeps the weights', () => {
    const model = prepared(method);
    const adamw = own(new AdamW(model.trainableParameters()));
    const snapshot = () => [...model.trainableParameters().values()].map((tensor) => tensor.toBytes());
    const poison = model.weights.finalNorm;
    const clean = poison.toFloat32();
    device.native.tensorWrite(poison.handle, new Float32Array(poison.size).fill(Number.NaN));
    const before = snapshot();
    const sums = accumulateGradients(model, whole, { labelledTotal: 47, seed: 1, step: 0, microBatch: 0 });
    expect(Number.isFinite(sums.lossSum)).toBe(false);
    expect(adamw.step(1e-3, { maxGradNorm: 1 }).applied).toBe(false);
    expect(snapshot()).toEqual(before);
    device.native.tensorWrite(poison.handle, clean);
    adamw.zeroGrad();
    accumulateGradients(model, whole, { labelledTotal: 47, seed: 1, step: 0, microBatch: 0 });
    expect(adamw.step(1e-3, { maxGradNorm: 1 }).applied).toBe(true);
  });
});

function train(model: Model, batch: PackedBatch, steps: number, learningRate: number): LossSums {
  const adamw = own(new AdamW(model.trainableParameters()));
  const schedule = { type: 'linear' as const, learningRate, warmupSteps: 3, totalSteps: steps };
  for (let step = 0; step < steps; step++) {
    adamw.zeroGrad();
    accumulateGradients(model, batch, { labelledTotal: labelledCount(batch), seed: 1, step, microBatch: 0 });
    adamw.step(learningRateAt(step, schedule), { maxGradNorm: 1 });
  }
  return evaluate(model, batch);
}

describe('training', () => {
  it.each<[Method, FloatDType, number]>([
    ['full', 'f32', 3e-3],
    ['full', 'bf16', 3e-3],
    ['lora', 'f32', 2e-2],
    ['lora', 'bf16', 2e-2],
  ])('overfits a few rows (%s, %s) and generates them', (method, dtype, learningRate) => {
    const rows = [randomIds(12, 21), randomIds(15, 22), randomIds(10, 23)];
    // a frozen head bounds the logits by the length of its rows, so it must be long enough for a small loss
    const model = prepared(method, { dtype, config: { initializer_range: 0.3 } });
    const batch = packSequences(rows);
    const { lossSum, correct, labelled } = train(model, batch, 120, learningRate);
    expect(lossSum / labelled).toBeLessThan(0.1);
    expect(correct).toBe(labelled);
    for (const row of rows) {
      // the first token is shared by no two rows, so greedy decoding from the first two must give the rest
      expect(generateNaive(model, row.slice(0, 2), { maxTokens: row.length - 2 })).toEqual([...row.slice(2)]);
    }
  });

  it('gives the same bytes twice', () => {
    const run = () => {
      const model = prepared('lora', { dropout: 0.1 });
      train(model, whole, 5, 1e-2);
      return [...model.trainableParameters().values()].map((tensor) => tensor.toBytes());
    };
    expect(run()).toEqual(run());
  });

  it('counts labelled tokens and hits', () => {
    const model = prepared('full');
    const sums = evaluate(model, whole);
    expect(sums.labelled).toBe(labelledCount(whole));
    const rows = Int32Array.from(whole.targets.keys()).filter((row) => whole.targets[row] !== -100);
    const logits = model.logits(whole, rows);
    let [loss, hits] = [0, 0];
    for (const [n, row] of rows.entries()) {
      const line = logits.slice(n * 64, n * 64 + 64);
      const peak = Math.max(...line);
      const target = whole.targets[row]!;
      loss += peak + Math.log(line.reduce((sum, value) => sum + Math.exp(value - peak), 0)) - line[target]!;
      if (line.indexOf(peak) === target) hits++;
    }
    expect(sums.lossSum / loss).toBeCloseTo(1, 5);
    expect(sums.correct).toBe(hits);
  });

  it('refuses what it cannot train on', () => {
    const model = prepared('full');
    const options = { labelledTotal: 47, seed: 1, step: 0, microBatch: 0 };
    const broken = (change: Partial<PackedBatch>) => () =>
      accumulateGradients(model, { ...whole, ...change }, options);
    expect(() => accumulateGradients(model, whole, { ...options, labelledTotal: 3 })).toThrow(
      /labelledTotal 3/,
    );
    expect(broken({ positions: whole.positions.slice(1) })).toThrow(/as many positions as ids/);
    expect(broken({ ids: whole.ids.map((id) => id + 60) })).toThrow(/ids/);
    expect(broken({ targets: whole.targets.map((id) => (id < 0 ? id : id + 60)) })).toThrow(/targets/);
    expect(broken({ positions: whole.positions.map((p) => p + 250) })).toThrow(
      /beyond the model's 256 positions/,
    );
    const frozen = own(tinyModel(device, { trainable: false }));
    expect(() => accumulateGradients(frozen, whole, options)).toThrow(/nothing to train/);
    const unlabelled = { ...whole, targets: whole.targets.map(() => -100) };
    expect(accumulateGradients(model, unlabelled, options)).toEqual({ lossSum: 0, labelled: 0, correct: 0 });
  });
});

describe('a saved model', () => {
  it('gives all its memory back when disposed, however it was opened', async () => {
    const dir = ownFolder(own, 'lathe-model-');
    await prepared('full').save(dir);
    const before = device.memory().inUse;
    for (const options of [{ trainable: true }, { forServing: true }, {}, { dtype: 'bf16' as const }]) {
      const model = openModel(dir, device, { dtype: 'f32', ...options });
      const adapter = LoraAdapter.create(model, LORA_DEFAULTS, 1);
      if (!('forServing' in options)) {
        model.attach(adapter);
        accumulateGradients(model, whole, { labelledTotal: 50, seed: 1, step: 0, microBatch: 0 });
      }
      model.dispose();
      adapter.dispose();
      expect(device.memory().inUse).toBe(before);
    }
  });

  it.each<FloatDType>(['f32', 'bf16'])('reopens with the same logits and bytes (%s)', async (dtype) => {
    const dir = ownFolder(own, 'lathe-model-');
    const model = prepared('full', { dtype });
    await model.save(dir);
    const rows = Int32Array.of(0, 40);
    const reopened = own(openModel(dir, device, { dtype }));
    expect(reopened.logits(whole, rows)).toEqual(model.logits(whole, rows));
    expect(reopened.parameters().has('lm_head.weight')).toBe(false);
    const first = readFileSync(join(dir, 'model.safetensors'));
    await reopened.save(dir);
    expect(readFileSync(join(dir, 'model.safetensors'))).toEqual(first);
    const trainable = own(openModel(dir, device, { dtype, trainable: true }));
    train(trainable, whole, 2, 1e-2);
    expect(trainable.logits(whole, rows)).not.toEqual(model.logits(whole, rows));
    expect(reopened.logits(whole, rows)).toEqual(model.logits(whole, rows));
  });
});
