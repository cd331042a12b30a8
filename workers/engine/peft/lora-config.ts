/**
 * LoRA's configuration under PEFT's names: checked when a job asks for it, read from and written to
 * adapter_config.json. Anything that would change the mathematics without being implemented is refused by name.
 */

/** Names or suffixes of module paths, 'all-linear', or a regular expression that must match a whole path. */
export type TargetModules = string[] | string;

export interface LoraConfig {
  r: number;
  lora_alpha: number;
  lora_dropout: number;
  target_modules: TargetModules;
  /** Scale alpha/√r instead of alpha/r (arXiv:2312.03732). */
  use_rslora: boolean;
  exclude_modules?: TargetModules | null;
  /** Only these layers. */
  layers_to_transform?: number[] | number | null;
  /** Path component(s) before the layer number, when it is not found by itself. */
  layers_pattern?: string[] | string | null;
  /** Module pattern → its own r or lora_alpha; the first pattern that matches the end of a path counts. */
  rank_pattern?: Record<string, number>;
  alpha_pattern?: Record<string, number>;
  /** true: A Kaiming-uniform, B zero; 'gaussian': A ~ N(0, 1/r²), B zero; false: both random. */
  init_lora_weights?: boolean | 'gaussian';
}

export const LORA_DEFAULTS: LoraConfig = {
  r: 8,
  lora_alpha: 16,
  lora_dropout: 0,
  target_modules: 'all-linear',
  use_rslora: false,
};

/** An adapter configuration that cannot be used; `field` is PEFT's name of the culprit. */
export class LoraConfigError extends Error {
  readonly code = 'adapter_config_invalid';
  readonly field: string;

  constructor(field: string, problem: string) {
    super(`adapter config: ${field} ${problem}`);
    this.name = 'LoraConfigError';
    this.field = field;
  }
}

const RANK_MAX = 256;

/** @throws LoraConfigError naming the first field that is out of range */
export function checkLoraConfig(config: LoraConfig): void {
  checkRank('r', config.r);
  checkAlpha('lora_alpha', config.lora_alpha);
  const { lora_dropout: dropout } = config;
  if (!(typeof dropout === 'number' && dropout >= 0 && dropout < 1)) {
    throw new LoraConfigError('lora_dropout', `must be from 0 to below 1, not ${dropout}`);
  }
  if (typeof config.use_rslora !== 'boolean')
    throw new LoraConfigError('use_rslora', 'must be true or false');
  const { init_lora_weights: init = true } = config;
  if (typeof init !== 'boolean' && init !== 'gaussian') {
    throw new LoraConfigError('init_lora_weights', `${JSON.stringify(init)} is not supported`);
  }
  checkModules('target_modules', config.target_modules);
  if (config.exclude_modules != null) checkModules('exclude_modules', config.exclude_modules);
  for (const [pattern, rank] of Object.entries(config.rank_pattern ?? {}))
    checkRank(`rank_pattern.${pattern}`, rank);
  for (const [pattern, alpha] of Object.entries(config.alpha_pattern ?? {})) {
    checkAlpha(`alpha_pattern.${pattern}`, alpha);
  }
  checkLayers(config);
}

function checkRank(field: string, rank: unknown): void {
  if (typeof rank !== 'number' || !Number.isInteger(rank) || rank < 1 || rank > RANK_MAX) {
    throw new LoraConfigError(field, `must be an integer from 1 to ${RANK_MAX}, not ${JSON.stringify(rank)}`);
  }
}

function checkAlpha(field: string, alpha: unknown): void {
  if (typeof alpha !== 'number' || !Number.isFinite(alpha) || alpha <= 0) {
    throw new LoraConfigError(field, `must be a positive number, not ${JSON.stringify(alpha)}`);
  }
}

function checkModules(field: string, modules: unknown): void {
  const isName = (value: unknown) => typeof value === 'string' && value.length > 0 && value.length <= 512;
  const valid = isName(modules) || (Array.isArray(modules) && modules.length > 0 && modules.every(isName));
  if (!valid) throw new LoraConfigError(field, 'must be a pattern or a list of module names');
}

function checkLayers({ layers_to_transform: layers, layers_pattern: pattern }: LoraConfig): void {
  if (layers != null) {
    const list = Array.isArray(layers) ? layers : [layers];
    if (!list.every((layer) => Number.isInteger(layer) && layer >= 0)) {
      throw new LoraConfigError('layers_to_transform', 'must hold layer numbers');
    }
  }
  if (pattern != null) checkModules('layers_pattern', pattern);
}

/** s in y = Wx + s·B·A·x. */
export function loraScale(r: number, alpha: number, rslora: boolean): number {
  return rslora ? alpha / Math.sqrt(r) : alpha / r;
}

/** Keys of adapter_config.json that do not change the mathematics, or that this engine reads. */
const KNOWN = new Set([
  ...[
    'peft_type',
    'task_type',
    'base_model_name_or_path',
    'revision',
    'inference_mode',
    'auto_mapping',
    'peft_version',
  ],
  ...[
    'r',
    'lora_alpha',
    'lora_dropout',
    'target_modules',
    'exclude_modules',
    'use_rslora',
    'init_lora_weights',
    'bias',
  ],
  ...[
    'layers_to_transform',
    'layers_pattern',
    'rank_pattern',
    'alpha_pattern',
    'megatron_core',
    'qalora_group_size',
  ],
  ...['loftq_config', 'eva_config', 'corda_config', 'runtime_config', 'lora_ga_config'],
]);

/** Initialisations that leave the base weights as they are; the others expect a changed base. */
const BASE_KEEPING_INITS = [true, false, 'gaussian', 'eva', 'orthogonal'];

/** Reads a parsed adapter_config.json. @throws LoraConfigError naming what is missing or not supported */
export function readLoraConfig(json: unknown): LoraConfig {
  if (json === null || typeof json !== 'object' || Array.isArray(json)) {
    throw new LoraConfigError('the top level', 'must be an object');
  }
  const raw = json as Record<string, unknown>;
  if (raw.peft_type !== 'LORA') {
    throw new LoraConfigError('peft_type', `${JSON.stringify(raw.peft_type)} is not supported (LORA is)`);
  }
  if ((raw.bias ?? 'none') !== 'none')
    throw new LoraConfigError('bias', `${JSON.stringify(raw.bias)} is not supported`);
  for (const [key, value] of Object.entries(raw)) {
    if (!KNOWN.has(key) && !isInert(value)) {
      throw new LoraConfigError(key, `${JSON.stringify(value)} is not supported`);
    }
  }
  const init = raw.init_lora_weights ?? true;
  if (!BASE_KEEPING_INITS.includes(init as boolean | string)) {
    throw new LoraConfigError(
      'init_lora_weights',
      `${JSON.stringify(init)} changes the base weights: not supported`,
    );
  }
  const config = {
    r: raw.r ?? 8,
    lora_alpha: raw.lora_alpha ?? 8,
    lora_dropout: raw.lora_dropout ?? 0,
    target_modules: raw.target_modules,
    use_rslora: raw.use_rslora ?? false,
    exclude_modules: raw.exclude_modules ?? null,
    layers_to_transform: raw.layers_to_transform ?? null,
    layers_pattern: raw.layers_pattern ?? null,
    rank_pattern: raw.rank_pattern ?? {},
    alpha_pattern: raw.alpha_pattern ?? {},
    init_lora_weights: typeof init === 'boolean' || init === 'gaussian' ? init : true,
  } as LoraConfig;
  checkLoraConfig(config);
  return config;
}

function isInert(value: unknown): boolean {
  if (value === null || value === false || value === '') return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/** The object that PEFT reads. `targets` replaces 'all-linear' by the module names it stands for. */
export function writeLoraConfig(
  config: LoraConfig,
  options: { baseModelName: string; targets: TargetModules },
): Record<string, unknown> {
  return {
    alpha_pattern: config.alpha_pattern ?? {},
    auto_mapping: null,
    base_model_name_or_path: options.baseModelName,
    bias: 'none',
    exclude_modules: config.exclude_modules ?? null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: config.init_lora_weights ?? true,
    layers_pattern: config.layers_pattern ?? null,
    layers_to_transform: config.layers_to_transform ?? null,
    lora_alpha: config.lora_alpha,
    lora_dropout: config.lora_dropout,
    modules_to_save: null,
    peft_type: 'LORA',
    r: config.r,
    rank_pattern: config.rank_pattern ?? {},
    revision: null,
    target_modules: options.targets,
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: config.use_rslora,
  };
}
