/**
 * LoRA (arXiv:2106.09685) and rsLoRA: W' = W + s·B·A on chosen linears, A [R, in] and B [out, R] in f32.
 * Verbs: create or load, attach to a model (the forward is in ops/linear.ts), merge, save in PEFT's format. The A of
 * linears that read one x lie one below the other in one tensor, so that one product reads x for all of them.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeJson } from '../io/atomic-write.ts';
import { openSafetensors, SafetensorsError, writeSafetensors } from '../io/safetensors.ts';
import type { Model } from '../models/model.ts';
import { type Linear, linearGroups } from '../models/weights.ts';
import type { LowRankBranch } from '../ops/linear.ts';
import { scope, type Tensor } from '../tensor.ts';
import {
  checkLoraConfig,
  type LoraConfig,
  loraScale,
  readLoraConfig,
  writeLoraConfig,
} from './lora-config.ts';
import { initialiseA, initialiseB, keyOf, loadFactor, stack } from './lora-factors.ts';
import { matchTargets, patternValue, shortNames } from './targets.ts';

export { LORA_DEFAULTS, type LoraConfig, LoraConfigError } from './lora-config.ts';

interface AdaptedLinear {
  layer: Linear;
  r: number;
  branch: LowRankBranch;
}

const WEIGHTS_FILE = 'adapter_model.safetensors';
const CONFIG_FILE = 'adapter_config.json';

export class LoraAdapter {
  readonly config: LoraConfig;
  readonly #layers: AdaptedLinear[];
  readonly #branches: (LowRankBranch | undefined)[] = [];
  /** Stacked A by the index of a group's first linear, where the group has more than one branch. */
  readonly #stacks = new Map<number, Tensor>();
  readonly #parameters = new Map<string, Tensor>();

  private constructor(config: LoraConfig, layers: AdaptedLinear[], groups: readonly Linear[][]) {
    this.config = config;
    this.#layers = layers;
    for (const { layer, branch } of layers) this.#branches[layer.index] = branch;
    for (const group of groups) {
      const branches = this.group(group).filter((branch) => branch !== null);
      if (branches.length > 1) this.#stacks.set(group[0]!.index, stack(branches));
    }
    for (const { layer, branch } of layers) {
      this.#parameters.set(keyOf(layer, 'A'), branch.a);
      this.#parameters.set(keyOf(layer, 'B'), branch.b);
      branch.a.requiresGrad = true;
      branch.b.requiresGrad = true;
    }
  }

  /**
   * A fresh adapter for `model`: A uniform in ±1/√in (Kaiming with a = √5, as PEFT), B zero, so the first forward
   * equals the base. Drawn by Philox from (seed, tensor name): the same seed gives the same bytes on every machine.
   * @throws LoraConfigError
   */
  static create(model: Model, config: LoraConfig, seed: number): LoraAdapter {
    checkLoraConfig(config);
    const pieces = LoraAdapter.#build(model, config, (layer, r) => ({
      a: initialiseA(model.device, layer, r, config.init_lora_weights ?? true, seed),
      b: initialiseB(model.device, layer, r, config.init_lora_weights ?? true, seed),
    }));
    return toEnd(pieces);
  }

  /**
   * Reads a PEFT folder. Weights stored in half precision widen to f32.
   * @throws LoraConfigError or SafetensorsError naming what does not fit the model or is not supported
   */
  static load(dir: string, model: Model): LoraAdapter {
    return toEnd(LoraAdapter.loading(dir, model));
  }

  /** As load(), one linear at a time: whoever serves others meanwhile goes on between the pieces. */
  static *loading(dir: string, model: Model): Generator<void, LoraAdapter> {
    const path = join(dir, WEIGHTS_FILE);
    if (!existsSync(path)) {
      throw new SafetensorsError(path, 'does not exist (adapters stored as pickle, .bin, are not read)');
    }
    const config = readLoraConfig(JSON.parse(readFileSync(join(dir, CONFIG_FILE), 'utf8')));
    const file = openSafetensors(path);
    const unused = new Set(file.tensors.keys());
    const take = (layer: Linear, which: 'A' | 'B', shape: readonly number[]) => {
      unused.delete(keyOf(layer, which));
      return loadFactor(model.device, file, keyOf(layer, which), shape);
    };
    const adapter = yield* LoraAdapter.#build(model, config, (layer, r) => ({
      a: take(layer, 'A', [r, layer.inFeatures]),
      b: take(layer, 'B', [layer.outFeatures, r]),
    }));
    const [extra] = unused;
    if (extra === undefined) return adapter;
    adapter.dispose();
    throw new SafetensorsError(path, `holds ${extra}, which adapter_config.json does not target`);
  }

  /** Yields after each linear; given up in between, nothing of it stays. */
  static *#build(
    model: Model,
    config: LoraConfig,
    factors: (layer: Linear, r: number) => { a: Tensor; b: Tensor },
  ): Generator<void, LoraAdapter> {
    const linears = model.linears();
    const names = linears.map((layer) => layer.name);
    const targets = new Set(matchTargets(names, config));
    const layers: AdaptedLinear[] = [];
    let complete = false;
    try {
      for (const layer of linears.filter(({ name }) => targets.has(name))) {
        const r = patternValue(config.rank_pattern, layer.name, config.r);
        const alpha = patternValue(config.alpha_pattern, layer.name, config.lora_alpha);
        const scale = loraScale(r, alpha, config.use_rslora);
        layers.push({ layer, r, branch: { ...factors(layer, r), scale } });
        yield;
      }
      complete = true;
    } finally {
      if (!complete) for (const { branch } of layers) disposeBranch(branch);
    }
    return new LoraAdapter(config, layers, linearGroups(model.weights));
  }

  /** The low-rank branch of the linear with this index, without dropout; null when it is not adapted. */
  branch(linearIndex: number): LowRankBranch | null {
    return this.#branches[linearIndex] ?? null;
  }

  /** The branches of linears that read one x, null where one is not adapted. */
  group(layers: readonly Linear[]): (LowRankBranch | null)[] {
    return layers.map(({ index }) => this.branch(index));
  }

  /** The A of a whole group of linears one below the other, in their order; null when none is adapted. */
  stackedA(layers: readonly Linear[]): Tensor | null {
    const stacked = layers.length > 1 ? this.#stacks.get(layers[0]!.index) : undefined;
    return stacked ?? this.group(layers).find((branch) => branch !== null)?.a ?? null;
  }

  /** A and B of every adapted linear under PEFT's keys. */
  parameters(): ReadonlyMap<string, Tensor> {
    return this.#parameters;
  }

  get trainableCount(): number {
    return this.#layers.reduce((sum, { layer, r }) => sum + r * (layer.inFeatures + layer.outFeatures), 0);
  }

  /** Writes adapter_model.safetensors and adapter_config.json; the same adapter always gives the same bytes. */
  async save(dir: string, options: { baseModelName: string }): Promise<void> {
    mkdirSync(dir, { recursive: true });
    writeSafetensors(join(dir, WEIGHTS_FILE), this.#parameters);
    const { target_modules: given } = this.config;
    const targets = given === 'all-linear' ? shortNames(this.#layers.map(({ layer }) => layer.name)) : given;
    writeJson(join(dir, CONFIG_FILE), writeLoraConfig(this.config, { ...options, targets }));
  }

  /**
   * W ← W + s·B·A for every adapted linear, computed in f32 and rounded once. The adapter stays as it is and must not
   * be attached.
   * @throws when a merged weight would not be finite (nothing is changed), or for a model opened for serving
   */
  mergeInto(model: Model): void {
    if (model.adapter === this) throw new Error('detach() the adapter before merging: it would count twice');
    for (const { layer, branch } of this.#layers) {
      scope(() => {
        if (model.device.native.hasNonFinite(mergedWeight(model, layer, branch).handle)) {
          throw new Error(`merging would make ${layer.name} non-finite`);
        }
      });
    }
    for (const { layer, branch } of this.#layers) {
      scope(() => model.replaceWeight(layer.index, mergedWeight(model, layer, branch).cast(model.dtype)));
    }
  }

  dispose(): void {
    for (const { branch } of this.#layers) disposeBranch(branch);
    for (const stacked of this.#stacks.values()) stacked.dispose();
  }
}

/** What a generator returns, with all of its pieces done at once. */
function toEnd<T>(pieces: Generator<void, T>): T {
  for (;;) {
    const piece = pieces.next();
    if (piece.done) return piece.value;
  }
}

function disposeBranch(branch: LowRankBranch): void {
  branch.a.dispose();
  branch.b.dispose();
}

/** f32 W + s·B·A of this model's weight with the adapter's factors. */
function mergedWeight(model: Model, { index }: Linear, { a, b, scale }: LowRankBranch): Tensor {
  const weight = model.linears()[index]?.weight;
  if (!weight) throw new Error('a model opened for serving keeps no plain weights to merge into');
  const merged = weight.cast('f32');
  model.device.native.gemm(merged.handle, b.handle, a.handle, false, false, scale, 1);
  return merged;
}
