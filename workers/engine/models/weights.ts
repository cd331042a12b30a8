/**
 * The weights of one decoder as a structure of tensors, and the list of names and shapes it is made from. Where the
 * tensors come from (a file, a random generator) is the caller's business: see open-model.ts.
 */
import type { Tensor } from '../tensor.ts';
import { familyOf, type ModelConfig } from './config.ts';
import { LINEAR_ROLES, type LinearRole } from './family.ts';

/** One linear layer. `name` is the module path of Hugging Face, which adapters use too. */
export interface Linear {
  name: string;
  /** Position among all linears of all blocks; the key of an adapter's branch and of its dropout stream. */
  index: number;
  inFeatures: number;
  outFeatures: number;
  /** [out, in]; null in a model opened for serving, which keeps only `packed`. */
  weight: Tensor | null;
  packed: Tensor | null;
  bias: Tensor | null;
}

export type Block = Record<LinearRole, Linear> & {
  index: number;
  inputNorm: Tensor;
  postNorm: Tensor;
  qNorm: Tensor | null;
  kNorm: Tensor | null;
};

export interface DecoderWeights {
  /** [V, C] */
  embedding: Tensor;
  blocks: Block[];
  finalNorm: Tensor;
  /** The output head; its weight is the embedding itself when tied. */
  head: Linear;
}

export type ParameterKind = 'embedding' | 'linear' | 'norm' | 'bias';

export interface ParameterSpec {
  name: string;
  shape: readonly number[];
  kind: ParameterKind;
}

/** [out, in] of each linear of a block. */
export function linearShapes(config: ModelConfig): Record<LinearRole, readonly [number, number]> {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim } = config;
  return {
    q: [heads * headDim, hiddenSize],
    k: [kvHeads * headDim, hiddenSize],
    v: [kvHeads * headDim, hiddenSize],
    o: [hiddenSize, heads * headDim],
    gate: [intermediateSize, hiddenSize],
    up: [intermediateSize, hiddenSize],
    down: [hiddenSize, intermediateSize],
  };
}

const hasBias = (config: ModelConfig, role: LinearRole) =>
  config.qkvBias && (role === 'q' || role === 'k' || role === 'v');

/** Every parameter of the model under its Hugging Face name, in the order of the forward pass. */
export function* parameterSpecs(config: ModelConfig): Generator<ParameterSpec> {
  const { names } = familyOf(config);
  const { hiddenSize, vocabSize, headDim } = config;
  const shapes = linearShapes(config);
  yield { name: `${names.embedding}.weight`, shape: [vocabSize, hiddenSize], kind: 'embedding' };
  for (let layer = 0; layer < config.layers; layer++) {
    const block = names.block(layer);
    yield { name: `${block.inputNorm}.weight`, shape: [hiddenSize], kind: 'norm' };
    for (const role of LINEAR_ROLES) {
      yield { name: `${block[role]}.weight`, shape: shapes[role], kind: 'linear' };
      if (hasBias(config, role))
        yield { name: `${block[role]}.bias`, shape: [shapes[role][0]], kind: 'bias' };
    }
    if (config.qkNorm) {
      yield { name: `${block.qNorm}.weight`, shape: [headDim], kind: 'norm' };
      yield { name: `${block.kNorm}.weight`, shape: [headDim], kind: 'norm' };
    }
    yield { name: `${block.postNorm}.weight`, shape: [hiddenSize], kind: 'norm' };
  }
  yield { name: `${names.finalNorm}.weight`, shape: [hiddenSize], kind: 'norm' };
  if (!config.tieWordEmbeddings) {
    yield { name: `${names.head}.weight`, shape: [vocabSize, hiddenSize], kind: 'linear' };
  }
}

/** Builds the structure over tensors that `parameters` holds under the names of parameterSpecs(). */
export function arrangeWeights(config: ModelConfig, parameters: ReadonlyMap<string, Tensor>): DecoderWeights {
  const { names } = familyOf(config);
  const shapes = linearShapes(config);
  const get = (name: string) => {
    const tensor = parameters.get(name);
    if (tensor === undefined) throw new Error(`the weight ${name} is missing`);
    return tensor;
  };
  let index = 0;
  const linear = (
    name: string,
    [outFeatures, inFeatures]: readonly [number, number],
    bias: boolean,
  ): Linear => ({
    name,
    index: index++,
    inFeatures,
    outFeatures,
    weight: get(`${name}.weight`),
    packed: null,
    bias: bias ? get(`${name}.bias`) : null,
  });
  const blocks = Array.from({ length: config.layers }, (_, layer): Block => {
    const block = names.block(layer);
    const linears = LINEAR_ROLES.map((role) => [
      role,
      linear(block[role], shapes[role], hasBias(config, role)),
    ]);
    return {
      ...(Object.fromEntries(linears) as Record<LinearRole, Linear>),
      index: layer,
      inputNorm: get(`${block.inputNorm}.weight`),
      postNorm: get(`${block.postNorm}.weight`),
      qNorm: config.qkNorm ? get(`${block.qNorm}.weight`) : null,
      kNorm: config.qkNorm ? get(`${block.kNorm}.weight`) : null,
    };
  });
  const embedding = get(`${names.embedding}.weight`);
  const headShape = [config.vocabSize, config.hiddenSize] as const;
  const head = config.tieWordEmbeddings
    ? { ...linear(names.embedding, headShape, false), name: names.head }
    : linear(names.head, headShape, false);
  return { embedding, blocks, finalNorm: get(`${names.finalNorm}.weight`), head };
}

/** Every linear of the blocks, in order; the head is not among them. */
export function blockLinears(weights: DecoderWeights): Linear[] {
  return weights.blocks.flatMap((block) => LINEAR_ROLES.map((role) => block[role]));
}

/** The linears of every block in groups that read one x: q, k, v; o; gate, up; down. */
export function linearGroups(weights: DecoderWeights): Linear[][] {
  return weights.blocks.flatMap(({ q, k, v, o, gate, up, down }) => [[q, k, v], [o], [gate, up], [down]]);
}
