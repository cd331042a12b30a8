import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { openSafetensors, writeSafetensors } from '../../workers/engine/io/safetensors.ts';
import { accumulateGradients } from '../../workers/engine/losses/supervised.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import {
  LORA_DEFAULTS,
  LoraAdapter,
  type LoraConfig,
  LoraConfigError,
} from '../../workers/engine/peft/lora.ts';
import { matchTargets } from '../../workers/engine/peft/targets.ts';
import { scope, Tensor } from '../../workers/engine/tensor.ts';
import { disposeAfterEach, ownFolder } from '../helpers/owned.ts';
import { labelledCount, packSequences, randomIds, relativeError, tinyModel } from './tiny.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

function folder(): string {
  return ownFolder(own, 'lathe-lora-');
}

const config = (extra: Partial<LoraConfig> = {}): LoraConfig => ({
  ...LORA_DEFAULTS,
  r: 4,
  lora_alpha: 8,
  ...extra,
});
const batch = packSequences([randomIds(20, 1), randomIds(13, 2)]);
const rows = Int32Array.of(3, 19, 30);

/** Gives B random values, so that the adapter changes something. */
function wake(adapter: LoraAdapter, seed = 9): LoraAdapter {
  for (const [name, tensor] of adapter.parameters()) {
    if (name.includes('lora_B')) device.native.randomNormal(tensor.handle, 0, 0.1, seed, name.length);
  }
  return adapter;
}

describe('matchTargets', () => {
  const names = [0, 1, 10].flatMap((i) =>
    ['self_attn.q_proj', 'self_attn.v_proj', 'mlp.up_proj'].map((leaf) => `model.layers.${i}.${leaf}`),
  );
  const match = (options: Partial<LoraConfig>) => matchTargets(names, config(options));

  it('matches lists by whole path or suffix, strings as a pattern over the whole path', () => {
    expect(match({ target_modules: ['q_proj'] })).toEqual([names[0], names[3], names[6]]);
    expect(match({ target_modules: ['self_attn.v_proj'] })).toEqual([names[1], names[4], names[7]]);
    expect(match({ target_modules: [names[3]!] })).toEqual([names[3]]);
    expect(match({ target_modules: '.*\\.1\\..*_proj' })).toEqual(names.slice(3, 6));
    expect(match({ target_modules: 'all-linear' })).toEqual(names);
    expect(() => match({ target_modules: 'q_proj' })).toThrow(/matches no linear layer/);
    expect(() => match({ target_modules: ['_proj'] })).toThrow(/"_proj" matches no linear layer/);
    expect(() => match({ target_modules: ['q_proj', 'lm_head'] })).toThrow(/"lm_head" matches no/);
    expect(() => match({ target_modules: '(' })).toThrow(/regular expression/);
  });

  it('excludes modules and restricts layers', () => {
    expect(match({ target_modules: 'all-linear', exclude_modules: ['up_proj', 'v_proj'] })).toEqual([
      names[0],
      names[3],
      names[6],
    ]);
    expect(match({ target_modules: ['q_proj'], layers_to_transform: [1, 10] })).toEqual([names[3], names[6]]);
    expect(match({ target_modules: ['q_proj'], layers_to_transform: 1, layers_pattern: 'layers' })).toEqual([
      names[3],
    ]);
    expect(() => match({ target_modules: ['q_proj'], layers_to_transform: 5 })).toThrow(LoraConfigError);
  });
});

describe('LoraAdapter.create', () => {
  it('starts as the base, exactly, and names its tensors as PEFT does', () => {
    const model = own(tinyModel(device));
    const base = model.logits(batch, rows);
    const adapter = own(LoraAdapter.create(model, config(), 3));
    model.attach(adapter);
    expect(model.logits(batch, rows)).toEqual(base);
    const names = [...adapter.parameters().keys()];
    expect(names.slice(0, 2)).toEqual([
      'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight',
      'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight',
    ]);
    expect(names.length).toBe(2 * 7 * 2);
    const perLayer = 4 * (32 + 64 + 2 * (32 + 32) + 64 + 32 + 3 * (32 + 48));
    expect(adapter.trainableCount).toBe(2 * perLayer);
    expect(model.counts().trainable).toBe(adapter.trainableCount);
  });

  it('draws A uniformly within ±1/√in, by seed', () => {
    const model = own(tinyModel(device));
    const values = (seed: number, init: LoraConfig['init_lora_weights'] = true) => {
      const adapter = own(LoraAdapter.create(model, config({ r: 64, init_lora_weights: init }), seed));
      return [...adapter.parameters()].map(([name, tensor]) => [name, tensor.toFloat32()] as const);
    };
    const drawn = values(3);
    for (const [name, data] of drawn) {
      if (name.includes('lora_B')) {
        expect(data.every((value) => value === 0)).toBe(true);
      } else {
        const bound = 1 / Math.sqrt(data.length / 64);
        const variance = data.reduce((sum, value) => sum + value * value, 0) / data.length;
        expect(Math.max(...data)).toBeLessThanOrEqual(bound);
        expect(variance / (bound ** 2 / 3)).toBeCloseTo(1, 0);
      }
    }
    expect(values(3)).toEqual(drawn);
    expect(values(4)).not.toEqual(drawn);
    const gaussian = values(3, 'gaussian')[0]![1];
    expect(Math.sqrt(gaussian.reduce((s, v) => s + v * v, 0) / gaussian.length) * 64).toBeCloseTo(1, 0);
    expect(values(3, false)[1]![1].some((value) => value !== 0)).toBe(true);
  });

  it.each<[string, Partial<LoraConfig>]>([
    ['r', { r: 0 }],
    ['r', { r: 257 }],
    ['r', { r: 2.5 }],
    ['lora_alpha', { lora_alpha: Number.NaN }],
    ['lora_dropout', { lora_dropout: 1 }],
    ['target_modules', { target_modules: [] }],
    ['target_modules', { target_modules: ['embed_tokens'] }],
    ['rank_pattern.q_proj', { rank_pattern: { q_proj: 0 } }],
    ['layers_to_transform', { layers_to_transform: [-1] }],
  ])('refuses a bad %s', (field, extra) => {
    const model = own(tinyModel(device));
    expect(() => LoraAdapter.create(model, config(extra), 1)).toThrow(expect.objectContaining({ field }));
  });

  it('honours rank_pattern and alpha_pattern', () => {
    const model = own(tinyModel(device));
    const patterns = { rank_pattern: { 'layers.1.*q_proj': 2 }, alpha_pattern: { q_proj: 1 } };
    const adapter = own(LoraAdapter.create(model, config({ ...patterns, target_modules: ['q_proj'] }), 1));
    const [first, second] = [0, 7].map((index) => adapter.branch(index));
    expect([first?.a.dim(0), second?.a.dim(0)]).toEqual([4, 2]);
    expect([first?.scale, second?.scale]).toEqual([1 / 4, 1 / 2]);
    expect(adapter.branch(1)).toBeNull();
  });
});

describe('an adapter folder', () => {
  it('comes back as it was and is written in the same bytes every time', async () => {
    const model = own(tinyModel(device));
    const adapter = own(wake(LoraAdapter.create(model, config({ use_rslora: true, lora_dropout: 0.25 }), 3)));
    const [one, two] = [folder(), folder()];
    await adapter.save(one, { baseModelName: 'tiny' });
    await adapter.save(two, { baseModelName: 'tiny' });
    expect(readdirSync(one).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    for (const name of readdirSync(one))
      expect(readFileSync(join(one, name))).toEqual(readFileSync(join(two, name)));

    const loaded = own(LoraAdapter.load(one, model));
    expect(loaded.branch(0)?.scale).toBe(8 / 2);
    expect(loaded.config).toMatchObject({ r: 4, lora_alpha: 8, lora_dropout: 0.25, use_rslora: true });
    for (const [name, tensor] of adapter.parameters()) {
      expect(loaded.parameters().get(name)?.toBytes()).toEqual(tensor.toBytes());
    }
    expect(JSON.parse(readFileSync(join(one, 'adapter_config.json'), 'utf8'))).toMatchObject({
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: 'tiny',
      bias: 'none',
      target_modules: ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj'],
      use_rslora: true,
      inference_mode: true,
    });
  });

  it('reads half precision', async () => {
    const model = own(tinyModel(device));
    const adapter = own(wake(LoraAdapter.create(model, config(), 3)));
    const dir = folder();
    await adapter.save(dir, { baseModelName: 'tiny' });
    scope(() => {
      const rounded = [...adapter.parameters()].map(([name, tensor]) => [name, tensor.cast('bf16')] as const);
      writeSafetensors(join(dir, 'adapter_model.safetensors'), rounded);
      const loaded = own(LoraAdapter.load(dir, model));
      for (const [name, tensor] of rounded) {
        expect(loaded.parameters().get(name)?.toFloat32()).toEqual(tensor.toFloat32());
      }
    });
  });

  it.each<[string, Record<string, unknown>]>([
    ['peft_type', { peft_type: 'IA3' }],
    ['bias', { bias: 'all' }],
    ['modules_to_save', { modules_to_save: ['lm_head'] }],
    ['use_dora', { use_dora: true }],
    ['fan_in_fan_out', { fan_in_fan_out: true }],
    ['init_lora_weights', { init_lora_weights: 'pissa' }],
    ['trainable_token_indices', { trainable_token_indices: [1, 2] }],
    ['layer_replication', { layer_replication: [[0, 1]] }],
    ['a_future_option', { a_future_option: 0.5 }],
    ['r', { r: 100000 }],
  ])('is refused when adapter_config.json has an unsupported %s', async (field, extra) => {
    const model = own(tinyModel(device));
    const dir = folder();
    await own(LoraAdapter.create(model, config(), 3)).save(dir, { baseModelName: 'tiny' });
    const path = join(dir, 'adapter_config.json');
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...extra }));
    const before = device.memory().inUse;
    expect(() => LoraAdapter.load(dir, model)).toThrow(expect.objectContaining({ field }));
    expect(device.memory().inUse).toBe(before);
  });

  it('is refused when its weights do not fit, are not finite, or are pickled', async () => {
    const model = own(tinyModel(device));
    const adapter = own(LoraAdapter.create(model, config({ target_modules: ['q_proj', 'k_proj'] }), 3));
    const dir = folder();
    await adapter.save(dir, { baseModelName: 'tiny' });
    const path = join(dir, 'adapter_model.safetensors');
    const [first = ''] = adapter.parameters().keys();
    const rewrite = (change: (tensors: Map<string, Tensor>) => void) =>
      scope(() => {
        const tensors = new Map(adapter.parameters());
        change(tensors);
        writeSafetensors(path, tensors);
        LoraAdapter.load(dir, model);
      });
    const before = device.memory().inUse;
    expect(() => rewrite((t) => t.delete(first))).toThrow(`lacks ${first}`);
    expect(() => rewrite((t) => t.set('base_model.model.lm_head.weight', Tensor.zeros(device, [2])))).toThrow(
      /holds base_model\.model\.lm_head\.weight/,
    );
    expect(() => rewrite((t) => t.set(first, Tensor.zeros(device, [3, 32])))).toThrow(/has shape \[3,32\]/);
    const nan = Float32Array.from({ length: 128 }, (_, i) => (i === 100 ? Number.NaN : 0));
    expect(() => rewrite((t) => t.set(first, Tensor.fromFloat32(device, nan, [4, 32])))).toThrow(
      /is not finite/,
    );
    rmSync(path);
    writeFileSync(join(dir, 'adapter_model.bin'), 'x');
    expect(() => LoraAdapter.load(dir, model)).toThrow(/pickle/);
    expect(device.memory().inUse).toBe(before);
  });
});

describe('merging', () => {
  it('equals the attached adapter, and the saved model equals both', async () => {
    const model = own(tinyModel(device, { trainable: false, config: { tie_word_embeddings: false } }));
    const adapter = own(wake(LoraAdapter.create(model, config(), 3)));
    const base = model.logits(batch, rows);
    model.attach(adapter);
    const adapted = model.logits(batch, rows);
    expect(relativeError(adapted, base)).toBeGreaterThan(0.01);
    expect(() => adapter.mergeInto(model)).toThrow(/detach\(\) the adapter/);
    model.detach();
    adapter.mergeInto(model);
    const merged = model.logits(batch, rows);
    expect(relativeError(merged, adapted)).toBeLessThan(1e-5);
    const dir = folder();
    await model.save(dir);
    const reopened = own(openModel(dir, device, { dtype: 'f32' }));
    expect(reopened.logits(batch, rows)).toEqual(merged);
    // the reopened weights are read-only views of the file: merging must replace, not write
    adapter.mergeInto(reopened);
    expect(openSafetensors(join(dir, 'model.safetensors')).tensors.size).toBe(model.parameters().size);
  });

  it('changes nothing when a merged weight would not be finite', () => {
    const model = own(tinyModel(device));
    const adapter = own(wake(LoraAdapter.create(model, config(), 3)));
    const base = model.logits(batch, rows);
    const last = [...adapter.parameters().values()].at(-1)!;
    device.native.tensorWrite(last.handle, new Float32Array(last.size).fill(Number.POSITIVE_INFINITY));
    expect(() => adapter.mergeInto(model)).toThrow(/layers\.1\.mlp\.down_proj non-finite/);
    expect(model.logits(batch, rows)).toEqual(base);
  });
});

describe('dropout', () => {
  const gradients = (step: number, p: number) => {
    const model = own(tinyModel(device));
    const adapter = own(wake(LoraAdapter.create(model, config({ lora_dropout: p }), 3)));
    model.attach(adapter);
    accumulateGradients(model, batch, { labelledTotal: labelledCount(batch), seed: 1, step, microBatch: 0 });
    return [...adapter.parameters().values()].map((tensor) => tensor.grad!.toFloat32());
  };

  it('repeats by seed and step, and is off at p = 0', () => {
    expect(gradients(3, 0.3)).toEqual(gradients(3, 0.3));
    expect(gradients(4, 0.3)).not.toEqual(gradients(3, 0.3));
    expect(gradients(4, 0)).toEqual(gradients(3, 0));
  });

  it('is on average the gradient without dropout', () => {
    const exact = gradients(0, 0).at(-1)!;
    const mean = new Float64Array(exact.length);
    const draws = 60;
    for (let step = 0; step < draws; step++) {
      for (const [i, value] of gradients(step, 0.1).at(-1)!.entries()) mean[i]! += value / draws;
    }
    expect(relativeError(mean, exact)).toBeLessThan(0.2);
  });
});
