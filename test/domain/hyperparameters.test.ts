import { describe, expect, it } from 'vitest';
import { type ResolveInput, resolveHyperparameters } from '../../src/domain/jobs/hyperparameters.ts';

const resolve = (change: Partial<ResolveInput>) =>
  resolveHyperparameters({
    requested: {},
    adapter: {},
    trainer: {},
    rows: 100,
    parameterCount: 4e6,
    contextLength: 32_768,
    baseIsBf16: true,
    ...change,
  });

describe('resolveHyperparameters', () => {
  it.each([
    [1, 10],
    [10, 10],
    [177, 10],
    [178, 9],
    [300, 6],
    [400, 4],
    [699, 3],
    [700, 3],
    [4_999, 3],
    [5_000, 2],
    [19_999, 2],
    [20_000, 1],
    [1_000_000, 1],
  ])('trains %i rows for %i epochs', (rows, epochs) => {
    expect(resolve({ rows }).hyperparameters.n_epochs).toBe(epochs);
  });

  it.each([
    [10, 3],
    [699, 3],
    [5_000, 2],
    [20_000, 1],
  ])('trains %i preference pairs for %i epochs', (rows, epochs) => {
    expect(resolve({ method: 'dpo', rows }).hyperparameters.n_epochs).toBe(epochs);
    expect(resolve({ method: 'dpo', rows, requested: { n_epochs: 7 } }).hyperparameters.n_epochs).toBe(7);
  });

  it.each([
    [4e6, 1e-4],
    [1e9, 1.5e-5],
    [7e9, 1e-5],
  ])('gives preference tuning of a %d-weight model the rate %d, a twentieth', (parameterCount, rate) => {
    const input = { method: 'dpo', parameterCount } as const;
    expect(resolve(input).trainer.learning_rate).toBeCloseTo(rate, 12);
    expect(resolve({ ...input, adapter: { peft_type: 'FULL' } }).trainer.learning_rate).toBeCloseTo(
      rate / 10,
      12,
    );
    const doubled = resolve({ ...input, requested: { learning_rate_multiplier: 2 } });
    expect(doubled.trainer.learning_rate).toBeCloseTo(2 * rate, 12);
    expect(resolve({ ...input, trainer: { learning_rate: 0.5 } }).trainer.learning_rate).toBe(0.5);
  });

  it('has a beta for preference tuning alone, and room for two answers in a pack', () => {
    expect(resolve({}).hyperparameters).not.toHaveProperty('beta');
    expect(resolve({ method: 'dpo' }).hyperparameters.beta).toBe(0.1);
    expect(resolve({ method: 'dpo', requested: { beta: 'auto' } }).hyperparameters.beta).toBe(0.1);
    expect(resolve({ method: 'dpo', requested: { beta: 2 } }).hyperparameters.beta).toBe(2);
    expect(resolve({ method: 'dpo', trainer: { max_length: 100 } }).trainer.max_tokens_per_pack).toBe(200);
    const small = { max_length: 100, max_tokens_per_pack: 150 };
    expect(resolve({ method: 'dpo', trainer: small }).trainer.max_tokens_per_pack).toBe(150);
  });

  it.each([
    [10, 1],
    [64, 1],
    [90, 1],
    [91, 2],
    [128, 2],
    [181, 2],
    [182, 4],
    [512, 8],
    [2_048, 32],
    [1_000_000, 32],
  ])('puts %i rows into batches of %i', (rows, size) => {
    expect(resolve({ rows }).hyperparameters.batch_size).toBe(size);
  });

  it.each([
    [4e6, 2e-3],
    [49.9e6, 2e-3],
    [50e6, 4e-4],
    [999e6, 4e-4],
    [1e9, 3e-4],
    [4e9, 2e-4],
    [9.9e9, 2e-4],
    [10e9, 1e-4],
  ])(
    'gives an adapter of a %d-weight model the rate %d, and a full fine-tune a tenth',
    (parameterCount, rate) => {
      expect(resolve({ parameterCount }).trainer.learning_rate).toBeCloseTo(rate, 12);
      expect(resolve({ parameterCount, adapter: { peft_type: 'FULL' } }).trainer.learning_rate).toBeCloseTo(
        rate / 10,
        12,
      );
    },
  );

  it('multiplies the base rate, and lets an explicit rate replace the product', () => {
    const tripled = resolve({ requested: { learning_rate_multiplier: 3 } });
    expect(tripled.trainer.learning_rate).toBeCloseTo(6e-3, 12);
    expect(tripled.hyperparameters.learning_rate_multiplier).toBe(3);
    const explicit = resolve({
      trainer: { learning_rate: 1e-5 },
      requested: { learning_rate_multiplier: 'auto' },
    });
    expect(explicit.trainer.learning_rate).toBe(1e-5);
    expect(explicit.hyperparameters.learning_rate_multiplier).toBe(1);
  });

  it('keeps what was given and fills in the rest', () => {
    const resolved = resolve({
      requested: { n_epochs: 2, batch_size: 'auto' },
      adapter: { r: 4, target_modules: ['q_proj'] },
      trainer: { max_length: 64, overlong: 'error', eval_steps: 5, max_grad_norm: 0 },
    });
    expect(resolved.hyperparameters).toEqual({ n_epochs: 2, batch_size: 2, learning_rate_multiplier: 1 });
    expect(resolved.adapter).toEqual({
      peft_type: 'LORA',
      r: 4,
      lora_alpha: 8,
      lora_dropout: 0,
      target_modules: ['q_proj'],
      use_rslora: false,
    });
    expect(resolved.trainer).toMatchObject({
      lr_scheduler_type: 'linear',
      warmup_ratio: 0.03,
      max_length: 64,
      max_tokens_per_pack: 64,
      overlong: 'error',
      eval_steps: 5,
      save_steps: null,
      max_grad_norm: 0,
      bf16: true,
    });
  });

  it('never plans more tokens than the model can see', () => {
    expect(resolve({ contextLength: 512 }).trainer.max_length).toBe(512);
    expect(resolve({ contextLength: 512, trainer: { max_length: 4_096 } }).trainer.max_length).toBe(512);
    expect(
      resolve({ trainer: { max_length: 128, max_tokens_per_pack: 64 } }).trainer.max_tokens_per_pack,
    ).toBe(128);
  });

  it('refuses a job without rows', () => {
    expect(() => resolve({ rows: 0 })).toThrow(RangeError);
    expect(() => resolve({ rows: Number.NaN })).toThrow(RangeError);
  });
});
