// Parameter counts of published models from their config.json alone: no weights, no device, no allocation.
import { describe, expect, it } from 'vitest';
import { readModelConfig } from '../../workers/engine/models/config.ts';
import { loraParameterCount, parameterCount } from '../../workers/engine/models/count.ts';
import { LLAMA3_8B, QWEN3_4B, QWEN25_7B } from './published-configs.ts';

const MODELS = [
  { name: 'Qwen3-4B', json: QWEN3_4B, base: 4_022_468_096, all: 16_515_072, qv: 2_949_120 },
  { name: 'Qwen2.5-7B', json: QWEN25_7B, base: 7_615_616_512, all: 20_185_088, qv: 2_523_136 },
  { name: 'Llama-3-8B', json: LLAMA3_8B, base: 8_030_261_248, all: 20_971_520, qv: 3_407_872 },
];

describe('parameter counts from shapes', () => {
  for (const { name, json, base, all, qv } of MODELS) {
    const config = readModelConfig(json);

    it(`${name} has ${base} parameters`, () => {
      expect(parameterCount(config)).toBe(base);
    });

    it(`${name} trains ${all} with LoRA r = 8 on every linear, ${qv} on q_proj and v_proj`, () => {
      const SEVEN = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
      expect(loraParameterCount(config, { r: 8, targetModules: 'all-linear' })).toBe(all);
      expect(loraParameterCount(config, { r: 8, targetModules: SEVEN })).toBe(all);
      expect(loraParameterCount(config, { r: 8, targetModules: ['q_proj', 'v_proj'] })).toBe(qv);
      expect(loraParameterCount(config, { r: 16, targetModules: '.*\\.(q|v)_proj' })).toBe(2 * qv);
    });
  }

  it('gives the totals that PEFT prints: trainable of base plus adapter', () => {
    const totals = MODELS.slice(0, 2).map(({ json }) => {
      const config = readModelConfig(json);
      const trainable = loraParameterCount(config, { r: 8, targetModules: 'all-linear' });
      return [trainable, trainable + parameterCount(config)];
    });
    expect(totals).toEqual([
      [16_515_072, 4_038_983_168],
      [20_185_088, 7_635_801_600],
    ]);
  });
});
