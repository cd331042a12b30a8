import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parameterGradient, recomputed, Tape } from '../../workers/engine/autograd.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { add } from '../../workers/engine/ops/elementwise.ts';
import { linear } from '../../workers/engine/ops/linear.ts';
import { swiglu } from '../../workers/engine/ops/swiglu.ts';
import { uniformAt } from '../../workers/engine/rng.ts';
import { keep, scope, Tensor } from '../../workers/engine/tensor.ts';

const device = openDevice({ kind: 'cpu' });
const parameters: Tensor[] = [];
let before = 0;

function parameter(shape: number[], seed: number, trainable = true): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length: size }, (_, i) => uniformAt(seed, 2, i) - 0.5);
  const tensor = keep(Tensor.fromFloat32(device, values, shape));
  tensor.requiresGrad = trainable;
  parameters.push(tensor);
  return tensor;
}

beforeEach(() => {
  before = device.memory().inUse;
});
afterEach(() => {
  for (const tensor of parameters.splice(0)) tensor.dispose();
  expect(device.memory().inUse).toBe(before);
});

const ones = (shape: readonly number[]) => {
  const tensor = Tensor.zeros(device, shape);
  device.native.fill(tensor.handle, 1);
  return tensor;
};

describe('Tape', () => {
  it('adds the gradients of every use of a value', () => {
    const [x, w] = [parameter([3, 4], 1), parameter([4, 4], 2)];
    scope(() => {
      const tape = new Tape();
      // y = x·Wᵀ + x·Wᵀ + h, h = x·Wᵀ used twice more below: dW must be four times that of one use
      const h = linear(tape, x, w, null);
      const y = add(tape, add(tape, h, h), add(tape, linear(tape, x, w, null), h));
      tape.give(y, ones([3, 4]));
      tape.backward();
      const single = new Tape();
      const once = parameter([4, 4], 2);
      const z = linear(single, x, once, null);
      single.give(z, ones([3, 4]));
      single.backward();
      const expected = once.grad!.toFloat32();
      for (const [i, value] of w.grad!.toFloat32().entries()) expect(value).toBeCloseTo(4 * expected[i]!, 5);
    });
  });

  it('never writes into a gradient that two values share', () => {
    const [a, b, w] = [parameter([2, 4], 1), parameter([2, 4], 2), parameter([4, 4], 3)];
    const gradients = () =>
      scope(() => {
        const tape = new Tape();
        // the linear comes first, so in backward a's gradient already is the tensor that add() shares with b
        const h = linear(tape, a, w, null);
        const y = add(tape, add(tape, a, b), h);
        tape.give(y, ones([2, 4]));
        const db = tape.backward(b);
        const bytes = [...(db?.toFloat32() ?? [])];
        db?.dispose();
        return bytes;
      });
    expect(gradients()).toEqual(Array(8).fill(1));
    const da = scope(() => {
      const tape = new Tape();
      const h = linear(tape, a, w, null);
      tape.give(add(tape, add(tape, a, b), h), ones([2, 4]));
      return tape.backward(a)!;
    });
    const columns = [0, 1, 2, 3].map((c) =>
      [0, 1, 2, 3].reduce((sum, r) => sum + w.toFloat32()[r * 4 + c]!, 1),
    );
    for (const [i, value] of da.toFloat32().entries()) expect(value).toBeCloseTo(columns[i % 4]!, 5);
    da.dispose();
  });

  it('gives a frozen weight no gradient and records nothing when nothing learns', () => {
    const [x, frozen] = [parameter([3, 4], 1, false), parameter([4, 4], 2, false)];
    const learned = parameter([4, 4], 3);
    scope(() => {
      const tape = new Tape();
      const h = linear(tape, x, frozen, null);
      expect(h.requiresGrad).toBe(false);
      const y = linear(tape, h, learned, null);
      tape.give(y, ones([3, 4]));
      tape.backward();
      expect(frozen.grad).toBeNull();
      expect(learned.grad).not.toBeNull();
    });
  });

  it('frees saved values when it is dropped without a backward, and when an op throws', () => {
    const [x, w] = [parameter([3, 4], 1), parameter([4, 4], 2)];
    parameterGradient(w);
    const start = device.memory().inUse;
    for (const failing of [false, true]) {
      scope(() => {
        const tape = new Tape();
        const h = swiglu(tape, linear(tape, x, w, null), linear(tape, x, w, null));
        if (failing) {
          tape.record([h], [], () => {
            throw new Error('inside backward');
          });
          tape.give(h, ones([3, 4]));
          expect(() => tape.backward()).toThrow('inside backward');
        } else {
          tape.dispose();
        }
      });
      expect(device.memory().inUse).toBe(start);
    }
  });
});

describe('recomputed', () => {
  it('gives the same bytes with less memory in between', () => {
    const x = parameter([64, 32], 1);
    const [w1, w2] = [parameter([96, 32], 2), parameter([32, 96], 3)];
    const block = (tape: Tape | null, input: Tensor) => {
      const gate = linear(tape, input, w1, null);
      const hidden = swiglu(tape, gate, linear(tape, input, w1, null));
      return add(tape, input, linear(tape, hidden, w2, null));
    };
    const run = (recompute: boolean) =>
      scope(() => {
        for (const w of [w1, w2]) device.native.fill(parameterGradient(w).handle, 0);
        const tape = new Tape();
        const y = recompute ? recomputed(tape, x, block) : scope(() => block(tape, x));
        const held = device.memory().inUse;
        tape.give(y, ones([64, 32]));
        const dx = tape.backward(x)!;
        const bytes = [dx, w1.grad!, w2.grad!].map((tensor) => tensor.toBytes());
        dx.dispose();
        return { held, bytes };
      });
    const [kept, again] = [run(false), run(true)];
    expect(again.bytes).toEqual(kept.bytes);
    expect(again.held).toBeLessThan(kept.held);
  });

  it('is transparent where nothing learns', () => {
    const x = parameter([3, 4], 1, false);
    scope(() => {
      const tape = new Tape();
      const y = recomputed(tape, x, (inner, input) => add(inner, input, input));
      expect(y.requiresGrad).toBe(false);
      expect(y.toFloat32()[5]).toBe(2 * x.toFloat32()[5]!);
    });
  });
});
