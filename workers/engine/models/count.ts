/** Parameter counts from shapes alone: nothing is allocated. */

import type { TargetModules } from '../peft/lora-config.ts';
import { matchTargets } from '../peft/targets.ts';
import { elementCount } from '../tensor.ts';
import { familyOf, type ModelConfig } from './config.ts';
import { LINEAR_ROLES } from './family.ts';
import { linearShapes, parameterSpecs } from './weights.ts';

/** Parameters of the model; a tied head is counted once. */
export function parameterCount(config: ModelConfig): number {
  let count = 0;
  for (const { shape } of parameterSpecs(config)) count += elementCount(shape);
  return count;
}

/** Trainable parameters of a LoRA adapter: Σ r·(in + out) over the targeted linears. */
export function loraParameterCount(
  config: ModelConfig,
  options: { r: number; targetModules: TargetModules },
): number {
  const { names } = familyOf(config);
  const shapes = linearShapes(config);
  const sizes = new Map<string, number>();
  for (let layer = 0; layer < config.layers; layer++) {
    const block = names.block(layer);
    for (const role of LINEAR_ROLES) sizes.set(block[role], shapes[role][0] + shapes[role][1]);
  }
  const targets = matchTargets([...sizes.keys()], { target_modules: options.targetModules });
  return targets.reduce((sum, name) => sum + options.r * sizes.get(name)!, 0);
}
