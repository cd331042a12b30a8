// One forward and one backward against transformers and PEFT, f32: logits, loss, every gradient. The golden files are
// made per sequence; here the sequences are packed, so packing is proven with it.
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { accumulateGradients, evaluate } from '../../workers/engine/losses/supervised.ts';
import { readModelConfig } from '../../workers/engine/models/config.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import type { PackedBatch } from '../../workers/engine/models/packed.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import {
  CASES,
  type CaseName,
  caseFolder,
  everyRow,
  pack,
  readJson,
  readReference,
  readTensors,
} from '../golden/read.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { disposeAfterEach, ownFolder } from '../helpers/owned.ts';
import { TOLERANCE } from '../helpers/tolerance.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

reportFigures();

function openCase(name: CaseName, options: { trainable?: boolean } = {}): Model {
  return own(openModel(caseFolder(name), device, { dtype: 'f32', ...options }));
}

function attachAdapter(model: Model, name: CaseName, folder: string): LoraAdapter {
  const adapter = own(LoraAdapter.load(join(caseFolder(name), folder), model));
  model.attach(adapter);
  return adapter;
}

const PLAIN = { seed: 0, step: 0, microBatch: 0 };

for (const name of CASES) {
  describe(`${name} against transformers`, () => {
    const reference = readReference(name);
    const tensors = readTensors(name);
    const batch = pack(reference.batch);
    const stored = (key: string) => tensors.get(key)!.values;

    it('reads the same model from either form of config.json', () => {
      const [v5, v4] = ['config.json', 'config.v4.json'].map((file) => {
        const { raw, ...config } = readModelConfig(readJson(caseFolder(name), file));
        expect(raw).toBeTypeOf('object');
        return config;
      });
      expect(v4).toEqual(v5);
    });

    it('gives the logits and the loss of the base', () => {
      const model = openCase(name);
      const logits = model.logits(batch, everyRow(batch, 1));
      expectClose(`${name} logits f32`, 'base logits', logits, stored('logits.base'), TOLERANCE.logitsF32);
      const { lossSum, labelled, correct } = evaluate(model, batch);
      expect({ labelled, correct }).toEqual({
        labelled: reference.base.labelled,
        correct: reference.base.correct,
      });
      expectClose(`${name} loss f32`, 'loss', [lossSum / labelled], [reference.base.loss], TOLERANCE.lossF32);
    });

    it('gives the logits, the loss and every LoRA gradient of PEFT', () => {
      const model = openCase(name);
      const adapter = attachAdapter(model, name, 'adapter_init');
      const logits = model.logits(batch, everyRow(batch, 3));
      const expected = stored('logits.adapter_init');
      expectClose(`${name} logits f32`, 'logits with adapter', logits, expected, TOLERANCE.logitsF32);

      const { labelled } = reference.base;
      const { lossSum } = accumulateGradients(model, batch, { labelledTotal: labelled, ...PLAIN });
      const loss = reference.adapter_init.loss;
      expectClose(`${name} loss f32`, 'loss with adapter', [lossSum / labelled], [loss], TOLERANCE.lossF32);

      const keys = [...tensors.keys()].filter((key) => key.startsWith('lora_grad.'));
      expect([...adapter.parameters().keys()].map((key) => `lora_grad.${key}`).sort()).toEqual(keys.sort());
      for (const [key, parameter] of adapter.parameters()) {
        const grad = parameter.grad!.toFloat32();
        const what = `gradient of ${key}`;
        expectClose(
          `${name} LoRA gradients f32`,
          what,
          grad,
          stored(`lora_grad.${key}`),
          TOLERANCE.gradientF32,
        );
      }
    });

    it('gives the same gradient bytes when blocks are recomputed', () => {
      const grads = [false, true].map((recompute) => {
        const model = openCase(name);
        const adapter = attachAdapter(model, name, 'adapter_init');
        accumulateGradients(model, batch, { labelledTotal: reference.base.labelled, ...PLAIN, recompute });
        return [...adapter.parameters()].map(([key, { grad }]) => [key, grad!.toBytes()]);
      });
      expect(grads[1]).toEqual(grads[0]);
    });

    it('gives the gradients of full fine-tuning', () => {
      const model = openCase(name, { trainable: true });
      accumulateGradients(model, batch, { labelledTotal: reference.base.labelled, ...PLAIN });
      const parameters = model.trainableParameters();
      const keys = [...tensors.keys()].filter((key) => key.startsWith('grad.'));
      if (name === 'qwen3-tied') {
        expect([...parameters.keys()].map((key) => `grad.${key}`).sort()).toEqual(keys.sort());
      }
      for (const key of keys) {
        const grad = parameters.get(key.slice('grad.'.length))!.grad!.toFloat32();
        expectClose(`${name} full gradients f32`, key, grad, stored(key), TOLERANCE.gradientF32);
      }
    });
  });
}

describe('LoRA dropout', () => {
  /** Loss of the batch under the masks of one (seed, step, microBatch), and the gradients. */
  function lossAndGradients(model: Model, adapter: LoraAdapter, batch: PackedBatch, labelledTotal: number) {
    for (const parameter of adapter.parameters().values()) {
      if (parameter.grad !== null) device.native.fill(parameter.grad.handle, 0);
    }
    const masks = { seed: 5, step: 3, microBatch: 1 };
    const { lossSum } = accumulateGradients(model, batch, { labelledTotal, ...masks });
    const grads = new Map([...adapter.parameters()].map(([key, { grad }]) => [key, grad!.toFloat32()]));
    return { loss: lossSum / labelledTotal, grads };
  }

  it('has gradients that match differences of the loss under the same masks', () => {
    const reference = readReference('qwen3-tied');
    const batch = pack(reference.batch);
    const { labelled } = reference.base;
    const model = openCase('qwen3-tied');
    const adapter = attachAdapter(model, 'qwen3-tied', 'adapter_init');
    const dry = lossAndGradients(model, adapter, batch, labelled);
    adapter.config.lora_dropout = 0.4;
    const wet = lossAndGradients(model, adapter, batch, labelled);
    expect(Math.abs(wet.loss - dry.loss)).toBeGreaterThan(1e-3);
    expect(evaluate(model, batch).lossSum / labelled).toBeCloseTo(dry.loss, 5);

    // along the gradient itself the loss changes by h·‖g‖; f32 losses of 6 carry about 1e-6 of noise
    const norm = Math.sqrt([...wet.grads.values()].flatMap((g) => [...g]).reduce((sum, v) => sum + v * v, 0));
    const h = 0.01;
    const shifted = [h, -h].map((distance) => {
      const kept = new Map([...adapter.parameters()].map(([key, p]) => [key, p.toFloat32()]));
      for (const [key, p] of adapter.parameters()) {
        const moved = kept.get(key)!.map((v, i) => v + (distance * wet.grads.get(key)![i]!) / norm);
        device.native.tensorWrite(p.handle, moved);
      }
      const { loss } = lossAndGradients(model, adapter, batch, labelled);
      for (const [key, p] of adapter.parameters()) device.native.tensorWrite(p.handle, kept.get(key)!);
      return loss;
    });
    const slope = (shifted[0]! - shifted[1]!) / (2 * h);
    expectClose('LoRA dropout slope', 'slope along the gradient', [slope], [norm], 1e-3);
  });
});

/** The folder of a case with some keys of config.json replaced. */
function variant(name: CaseName, keys: Record<string, unknown>): string {
  const folder = ownFolder(own, 'lathe-golden-');
  cpSync(caseFolder(name), folder, { recursive: true });
  const json = { ...readJson<object>(folder, 'config.json'), ...keys };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(json));
  return folder;
}

describe('sliding window against transformers', () => {
  it('sees the last `sliding_window` tokens, the own one included', () => {
    const reference = readReference('qwen3-tied');
    const batch = pack(reference.batch);
    const folder = variant('qwen3-tied', {
      use_sliding_window: true,
      sliding_window: reference.sliding_window,
      max_window_layers: 0,
      layer_types: ['sliding_attention', 'sliding_attention'],
    });
    const model = own(openModel(folder, device, { dtype: 'f32' }));
    const logits = model.logits(batch, everyRow(batch, 3));
    const expected = readTensors('qwen3-tied').get('logits.sliding_window')!.values;
    expectClose('sliding window logits f32', 'logits', logits, expected, TOLERANCE.logitsF32);
  });
});
