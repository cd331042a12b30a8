import { describe, expect, it } from 'vitest';
import { parameterGradient } from '../../workers/engine/autograd.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { AdamW, type AdamWOptions } from '../../workers/engine/optim/adamw.ts';
import { uniformAt } from '../../workers/engine/rng.ts';
import { type FloatDType, keep, Tensor } from '../../workers/engine/tensor.ts';
import { disposeAfterEach } from '../helpers/owned.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

const random = (n: number, seed: number) =>
  Float32Array.from({ length: n }, (_, i) => uniformAt(seed, 1, i) - 0.5);

function parameter(values: Float32Array, shape: number[], dtype: FloatDType = 'f32'): Tensor {
  const tensor = keep(Tensor.fromFloat32(device, values, shape, dtype));
  tensor.requiresGrad = true;
  own(tensor);
  return tensor;
}

function setGradient(p: Tensor, values: Float32Array): void {
  device.native.tensorWrite(parameterGradient(p).handle, values);
}

function optimizer(parameters: Map<string, Tensor>, options?: AdamWOptions): AdamW {
  return own(new AdamW(parameters, options));
}

/** The update rule written out in doubles: one element, all steps. */
function referenceAdamW(p: number, gradients: number[], lr: number, decay: number): number {
  const [beta1, beta2, eps] = [0.9, 0.999, 1e-8];
  let [m, v] = [0, 0];
  for (const [i, g] of gradients.entries()) {
    p *= 1 - lr * decay;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    p -= (lr * (m / (1 - beta1 ** (i + 1)))) / (Math.sqrt(v / (1 - beta2 ** (i + 1))) + eps);
  }
  return p;
}

describe('AdamW', () => {
  it('equals the reference in doubles, with decay on matrices only', () => {
    const [start, bias] = [random(35, 1), random(5, 2)];
    const gradients = Array.from({ length: 12 }, (_, step) => random(35, 10 + step));
    const weight = parameter(start, [5, 7]);
    const vector = parameter(bias, [5]);
    const adamw = optimizer(
      new Map([
        ['w', weight],
        ['b', vector],
      ]),
      { weightDecay: 0.1 },
    );
    for (const g of gradients) {
      adamw.zeroGrad();
      setGradient(weight, g);
      setGradient(vector, g.slice(0, 5));
      expect(adamw.step(0.01, { maxGradNorm: null }).applied).toBe(true);
    }
    const column = (i: number) => gradients.map((g) => g[i]!);
    const [w, b] = [weight.toFloat32(), vector.toFloat32()];
    for (let i = 0; i < 35; i++) expect(w[i]).toBeCloseTo(referenceAdamW(start[i]!, column(i), 0.01, 0.1), 6);
    for (let i = 0; i < 5; i++) expect(b[i]).toBeCloseTo(referenceAdamW(bias[i]!, column(i), 0.01, 0), 6);
    expect(adamw.stepCount).toBe(12);
  });

  it.each<FloatDType>(['f32', 'bf16'])(
    'is bitwise repeatable and resumes bitwise from its state (%s)',
    (dtype) => {
      const run = (stopAt: number | null) => {
        let weight = parameter(random(600, 3), [20, 30], dtype);
        let adamw = optimizer(new Map([['w', weight]]), { weightDecay: 0.01 });
        for (let step = 0; step < 8; step++) {
          if (step === stopAt) {
            const saved = adamw.state();
            const next = parameter(weight.toFloat32(), [20, 30], dtype);
            const resumed = optimizer(new Map([['w', next]]), { weightDecay: 0.01 });
            resumed.loadState((name) => saved.get(name), adamw.stepCount);
            [weight, adamw] = [next, resumed];
          }
          adamw.zeroGrad();
          setGradient(weight, random(600, 50 + step));
          adamw.step(0.003, { maxGradNorm: 1 });
        }
        return Buffer.from(weight.toBytes()).toString('hex');
      };
      expect(run(null)).toBe(run(null));
      expect(run(4)).toBe(run(null));
    },
  );

  it('keeps what bf16 alone would lose in its f32 master', () => {
    const weight = parameter(new Float32Array(4).fill(256), [2, 2], 'bf16');
    const adamw = optimizer(new Map([['w', weight]]));
    // each update is about lr = 0.25; bf16 has steps of 2 at 256 and would never move
    for (let step = 0; step < 16; step++) {
      setGradient(weight, new Float32Array(4).fill(1));
      adamw.step(0.25, {});
    }
    expect(weight.toFloat32()[0]).toBe(252);
  });

  it('converges on a quadratic', () => {
    const target = random(64, 4);
    const weight = parameter(random(64, 5), [8, 8]);
    const adamw = optimizer(new Map([['w', weight]]));
    for (let step = 0; step < 400; step++) {
      setGradient(
        weight,
        weight.toFloat32().map((value, i) => value - target[i]!),
      );
      adamw.step(0.05 * (1 - step / 400), { maxGradNorm: 1 });
    }
    const error = weight.toFloat32().map((value, i) => Math.abs(value - target[i]!));
    expect(Math.max(...error)).toBeLessThan(1e-3);
  });

  it('moves every element by at most about lr on the first step, whatever the gradient scale', () => {
    for (const scale of [1e-6, 1, 1e6]) {
      const weight = parameter(new Float32Array(50), [5, 10]);
      const adamw = optimizer(new Map([['w', weight]]));
      const g = random(50, 6).map((value) => value * scale);
      setGradient(weight, g);
      adamw.step(0.1, { maxGradNorm: null });
      for (const [i, value] of weight.toFloat32().entries()) {
        expect(Math.sign(value)).toBe(-Math.sign(g[i]!));
        expect(Math.abs(value)).toBeLessThan(0.1 + 1e-6);
        // |g|/(|g| + eps) > 0.5 already at |g| = eps
        if (Math.abs(g[i]!) > 1e-8) expect(Math.abs(value)).toBeGreaterThan(0.05);
      }
    }
  });

  it('clips by the global norm over all parameters', () => {
    const [one, two] = [parameter(new Float32Array(4), [2, 2]), parameter(new Float32Array(4), [2, 2])];
    const adamw = optimizer(
      new Map([
        ['a', one],
        ['b', two],
      ]),
      { betas: [0, 0], eps: 1e6 },
    );
    setGradient(one, new Float32Array(4).fill(3));
    setGradient(two, new Float32Array(4).fill(4));
    const { gradNorm } = adamw.step(1, { maxGradNorm: 1 });
    expect(gradNorm).toBeCloseTo(10, 10);
    // with eps = 10⁶ and no momentum the update is g·clip/10⁶: the clipped gradients keep their ratio and have norm 1
    expect(one.toFloat32()[0]! * -1e6).toBeCloseTo(0.3, 4);
    expect(two.toFloat32()[0]! * -1e6).toBeCloseTo(0.4, 4);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])(
    'refuses a step with a gradient of %s and changes nothing',
    (bad) => {
      const weight = parameter(random(10, 7), [2, 5]);
      const other = parameter(random(10, 8), [2, 5]);
      const adamw = optimizer(
        new Map([
          ['a', other],
          ['w', weight],
        ]),
      );
      setGradient(weight, random(10, 9));
      adamw.step(0.1, { maxGradNorm: 1 });
      const tensors = [weight, other, ...adamw.state().values()];
      const before = tensors.map((tensor) => tensor.toBytes());
      setGradient(
        weight,
        Float32Array.from({ length: 10 }, (_, i) => (i === 6 ? bad : 1)),
      );
      const result = adamw.step(0.1, { maxGradNorm: 1 });
      expect(result.applied).toBe(false);
      expect(Number.isFinite(result.gradNorm)).toBe(false);
      expect(tensors.map((tensor) => tensor.toBytes())).toEqual(before);
      expect(adamw.stepCount).toBe(1);
    },
  );

  it('refuses state that does not fit, before changing anything', () => {
    const weight = parameter(random(10, 7), [2, 5]);
    const adamw = optimizer(new Map([['w', weight]]));
    expect(() => adamw.loadState(() => undefined, 3)).toThrow(/lacks w\.exp_avg/);
    const wrong = parameter(random(10, 7), [5, 2]);
    expect(() => adamw.loadState(() => wrong, 3)).toThrow(/is f32 \[5,2\], not f32 \[2,5\]/);
    expect(adamw.stepCount).toBe(0);
  });

  it('gives its memory back', () => {
    const weight = parameter(random(10, 7), [2, 5], 'bf16');
    parameterGradient(weight);
    const before = device.memory().inUse;
    const adamw = new AdamW(new Map([['w', weight]]));
    expect(device.memory().inUse).toBeGreaterThan(before);
    adamw.dispose();
    expect(device.memory().inUse).toBe(before);
  });
});
