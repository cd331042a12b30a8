// Rows of the op table for f32 rows beside bf16 weights, as the CPU trains a bf16 model; other devices hold both in one
// type. Drawn and checked as the plain rows of these ops are, on weights that are bf16.
import { roundBf16 } from '../helpers/tolerance.ts';
import { crossEntropy, packed } from './ops.linear.cases.ts';
import { loraLinear } from './ops.lora.cases.ts';
import type { OpCase } from './ops.table.ts';

/**
 * ∂L/∂x = Σ dy·W: where the product goes through bf16 tiles, dy counts as one bf16. Rounding normal numbers so costs
 * 1.7e-3 of the norm of such sums; over 64 probed elements that strays by 3e-4, so this is six deviations off.
 * Everything else keeps the bounds of f32.
 */
const ONE_PART = { gradientsOnTiles: { x: 3.5e-3 } };
const X_PROBES = 64;

function mixed(row: OpCase, bounds: OpCase['tolerance'] = {}): OpCase {
  return {
    ...row,
    name: `${row.name}, bf16 weights`,
    why: `${row.why}; products of f32 and bf16 count f32 with 17 bits or all (2e-6 of the norm)`,
    types: ['f32'],
    tolerance: bounds,
    make(random, device) {
      const problem = row.make(random, device);
      const inputs = { ...problem.inputs };
      for (const [name, input] of Object.entries(inputs)) {
        if (/^w\d?$/.test(name)) inputs[name] = { ...input, values: roundBf16(input.values), dtype: 'bf16' };
        if (name === 'x') inputs[name] = { ...input, probes: X_PROBES };
      }
      return { ...problem, inputs };
    },
  };
}

// No gradient of one or two elements, whose terms may cancel; tokens on both sides of what is a thin product.
const sizes = { tokens: [9, 17, 33, 48], depths: [31, 48, 65], widths: [5, 33, 64], probes: 24 };
const large = { tokens: [40], depths: [300], widths: [70, 33], probes: 3 };
const loss = { rows: [17, 33], channels: [33, 64], vocabulary: [97, 130], probes: 24 };
const wide = { rows: [6], channels: [18], vocabulary: [8291], probes: 24 };

export const MIXED_CASES: OpCase[] = [
  mixed(packed),
  mixed(loraLinear('one layer', { ...sizes, ranks: [8] }, false), ONE_PART),
  mixed(loraLinear('two layers', { ...sizes, ranks: [16, 5] }, true), ONE_PART),
  mixed(loraLinear('three layers, one without a branch', { ...sizes, ranks: [4, 0, 11] }, false), ONE_PART),
  mixed(loraLinear('larger than its blocks', { ...large, ranks: [8, 8, 40] }, false), ONE_PART),
  mixed(crossEntropy('rows of a batch', loss), ONE_PART),
  mixed(crossEntropy('more rows of w than a slab', wide), ONE_PART),
];
