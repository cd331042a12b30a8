// The op table: every native op with its float64 reference, its gradient and its tolerance. ops.test.ts runs it on
// every device; a new op is a new row here and a new function in test/helpers/float64.ts.
import { ATTENTION_CASES } from './ops.attention.cases.ts';
import { ELEMENTWISE_CASES } from './ops.elementwise.cases.ts';
import { LINEAR_CASES } from './ops.linear.cases.ts';
import { LORA_CASES } from './ops.lora.cases.ts';
import { NORM_CASES } from './ops.norm.cases.ts';
import { SERVING_CASES } from './ops.serving.cases.ts';
import type { OpCase } from './ops.table.ts';

export const OP_CASES: OpCase[] = [
  ...ELEMENTWISE_CASES,
  ...LINEAR_CASES,
  ...LORA_CASES,
  ...NORM_CASES,
  ...ATTENTION_CASES,
  ...SERVING_CASES,
];

/** Ops whose result is a number or a random draw: ops.random.test.ts and sample-tokens.test.ts. */
export const PROVEN_APART = [
  'sumSquares',
  'hasNonFinite',
  'dropoutForward',
  'dropoutBackward',
  'randomUniform',
  'randomNormal',
  'sampleTokens',
];
