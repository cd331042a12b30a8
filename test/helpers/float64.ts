// The float64 specification of every op: plain loops over row-major arrays, forward only. Gradients are never
// written by hand here: `finiteDifference` derives them, so that a wrong formula cannot be wrong twice.
// Size letters: T tokens, C channels, H heads, D head size, V vocabulary, N labelled rows, S sequences.

type F64 = Float64Array;

/** x [rows, width] times its root-mean-square inverse times w [width]; rstd [rows]. https://arxiv.org/abs/1910.07467 */
export function rmsNorm(x: F64, w: F64, eps: number): { y: F64; rstd: F64 } {
  const width = w.length;
  const rows = x.length / width;
  const y = new Float64Array(x.length);
  const rstd = new Float64Array(rows);
  for (let t = 0; t < rows; t++) {
    let squares = 0;
    for (let c = 0; c < width; c++) squares += x[t * width + c]! ** 2;
    rstd[t] = 1 / Math.sqrt(squares / width + eps);
    for (let c = 0; c < width; c++) y[t * width + c] = x[t * width + c]! * rstd[t]! * w[c]!;
  }
  return { y, rstd };
}

/**
 * Optional RMS norm of every head, then rotation of the halves (i, i + D/2) by the token's angle ("rotate_half").
 * x [T, H·D]; w [D] or null; cos, sin [P, D/2]; positions [T]. https://arxiv.org/abs/2104.09864
 */
export function qkNormRope(
  x: F64,
  w: F64 | null,
  cos: F64,
  sin: F64,
  positions: ArrayLike<number>,
  headDim: number,
  eps: number,
): { y: F64; rstd: F64 | null } {
  const normed = w ? rmsNorm(x, w, eps) : { y: x, rstd: null };
  const half = headDim / 2;
  const heads = x.length / positions.length / headDim;
  const y = new Float64Array(x.length);
  for (let t = 0; t < positions.length; t++) {
    for (let h = 0; h < heads; h++) {
      const base = (t * heads + h) * headDim;
      for (let i = 0; i < half; i++) {
        const c = cos[positions[t]! * half + i]!;
        const s = sin[positions[t]! * half + i]!;
        const a = normed.y[base + i]!;
        const b = normed.y[base + half + i]!;
        y[base + i] = a * c - b * s;
        y[base + half + i] = b * c + a * s;
      }
    }
  }
  return { y, rstd: normed.rstd };
}

export interface AttentionShape {
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  scale: number;
  /** Query i sees key j ≤ i only while i − j < window; 0 = all. */
  window: number;
}

/** One query row of one head over keys [from, to): writes out[outAt …], returns log Σ exp(score). */
function attendRow(
  s: AttentionShape,
  head: number,
  q: F64,
  row: number,
  keyRow: (j: number) => number,
  span: [number, number],
  k: F64,
  v: F64,
  out: F64,
): number {
  const { headDim: D, queryHeads, kvHeads } = s;
  const kvHead = Math.floor(head / (queryHeads / kvHeads));
  const at = (row * queryHeads + head) * D;
  const [from, to] = span;
  const scores = new Float64Array(to - from);
  for (let j = from; j < to; j++) {
    const keyAt = (keyRow(j) * kvHeads + kvHead) * D;
    let dot = 0;
    for (let d = 0; d < D; d++) dot += q[at + d]! * k[keyAt + d]!;
    scores[j - from] = dot * s.scale;
  }
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = scores.reduce((a, b) => a + Math.exp(b - max), 0);
  for (let j = from; j < to; j++) {
    const p = Math.exp(scores[j - from]! - max) / sum;
    const valueAt = (keyRow(j) * kvHeads + kvHead) * D;
    for (let d = 0; d < D; d++) out[at + d] = out[at + d]! + p * v[valueAt + d]!;
  }
  return max + Math.log(sum);
}

/** Causal grouped-query attention inside each of the packed sequences; q [T, Hq·D], k and v [T, Hkv·D], lse [Hq, T]. */
export function attention(
  s: AttentionShape,
  q: F64,
  k: F64,
  v: F64,
  cuSeqlens: ArrayLike<number>,
): { out: F64; lse: F64 } {
  const T = cuSeqlens[cuSeqlens.length - 1]!;
  const out = new Float64Array(q.length);
  const lse = new Float64Array(s.queryHeads * T);
  for (let n = 0; n + 1 < cuSeqlens.length; n++) {
    for (let i = cuSeqlens[n]!; i < cuSeqlens[n + 1]!; i++) {
      const from = Math.max(cuSeqlens[n]!, s.window > 0 ? i - s.window + 1 : 0);
      for (let h = 0; h < s.queryHeads; h++) {
        lse[h * T + i] = attendRow(s, h, q, i, (j) => j, [from, i + 1], k, v, out);
      }
    }
  }
  return { out, lse };
}

/** The same over a paged cache: sequence n's token j lies in cache row blockTables[n][j / B]·B + j mod B. */
export function pagedAttention(
  s: AttentionShape,
  q: F64,
  kCache: F64,
  vCache: F64,
  blockTables: number[][],
  cuSeqlensQ: ArrayLike<number>,
  contextLens: ArrayLike<number>,
  blockSize: number,
): F64 {
  const out = new Float64Array(q.length);
  for (let n = 0; n < blockTables.length; n++) {
    const count = cuSeqlensQ[n + 1]! - cuSeqlensQ[n]!;
    const rowOf = (j: number) => blockTables[n]![Math.floor(j / blockSize)]! * blockSize + (j % blockSize);
    for (let i = 0; i < count; i++) {
      const position = contextLens[n]! - count + i;
      const from = Math.max(0, s.window > 0 ? position - s.window + 1 : 0);
      for (let h = 0; h < s.queryHeads; h++) {
        attendRow(s, h, q, cuSeqlensQ[n]! + i, rowOf, [from, position + 1], kCache, vCache, out);
      }
    }
  }
  return out;
}

/** silu(gate) · up, silu(x) = x / (1 + e^−x). https://arxiv.org/abs/2002.05202 */
export function swiglu(gate: F64, up: F64): F64 {
  return gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!);
}

export interface GemmShape {
  M: number;
  N: number;
  K: number;
  transA: boolean;
  transB: boolean;
  alpha: number;
  beta: number;
}

/** alpha · op(A) · op(B) + beta · C, row-major; with beta 0 the old C is not read. */
export function gemm(g: GemmShape, a: F64, b: F64, c: F64): F64 {
  const out = new Float64Array(g.M * g.N);
  for (let m = 0; m < g.M; m++) {
    for (let n = 0; n < g.N; n++) {
      let sum = 0;
      for (let k = 0; k < g.K; k++) {
        sum += a[g.transA ? k * g.M + m : m * g.K + k]! * b[g.transB ? n * g.K + k : k * g.N + n]!;
      }
      out[m * g.N + n] = g.alpha * sum + (g.beta === 0 ? 0 : g.beta * c[m * g.N + n]!);
    }
  }
  return out;
}

/** Cross entropy of softmax(x Wᵀ) against targets: loss [N], and whether the first largest logit is the target. */
export function linearCrossEntropy(
  x: F64,
  w: F64,
  targets: ArrayLike<number>,
  width: number,
): { losses: F64; correct: F64 } {
  const V = w.length / width;
  const N = targets.length;
  const logits = gemm({ M: N, N: V, K: width, transA: false, transB: true, alpha: 1, beta: 0 }, x, w, x);
  const losses = new Float64Array(N);
  const correct = new Float64Array(N);
  for (let n = 0; n < N; n++) {
    const row = logits.subarray(n * V, (n + 1) * V);
    let best = 0;
    for (let i = 1; i < V; i++) if (row[i]! > row[best]!) best = i;
    const sum = row.reduce((a, b) => a + Math.exp(b - row[best]!), 0);
    losses[n] = row[best]! + Math.log(sum) - row[targets[n]!]!;
    correct[n] = best === targets[n] ? 1 : 0;
  }
  return { losses, correct };
}

export interface AdamWOptions {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** 1-based. */
  step: number;
  gradScale: number;
}

/** One decoupled AdamW step (https://arxiv.org/abs/1711.05101), bias-corrected, eps outside the root. */
export function adamw(o: AdamWOptions, p: F64, m: F64, v: F64, g: F64): { p: F64; m: F64; v: F64 } {
  const next = { p: p.slice(), m: m.slice(), v: v.slice() };
  for (let i = 0; i < p.length; i++) {
    const grad = g[i]! * o.gradScale;
    next.m[i] = o.beta1 * m[i]! + (1 - o.beta1) * grad;
    next.v[i] = o.beta2 * v[i]! + (1 - o.beta2) * grad * grad;
    const mean = next.m[i]! / (1 - o.beta1 ** o.step);
    const deviation = Math.sqrt(next.v[i]! / (1 - o.beta2 ** o.step));
    next.p[i] = p[i]! * (1 - o.lr * o.weightDecay) - (o.lr * mean) / (deviation + o.eps);
  }
  return next;
}

/** Rows of x [T, C] by index. */
export function gatherRows(x: F64, rows: ArrayLike<number>, width: number): F64 {
  const out = new Float64Array(rows.length * width);
  for (let n = 0; n < rows.length; n++)
    out.set(x.subarray(rows[n]! * width, (rows[n]! + 1) * width), n * width);
  return out;
}

/**
 * ∂ scalar / ∂ x at the given elements by central differences, (f(x + h) − f(x − h)) / 2h with h = 1e-5.
 * In float64 the truncation error is O(h²) = 1e-10 and the cancellation error 1e-16 / h = 1e-11. x is restored.
 */
export function finiteDifference(scalar: () => number, x: F64, elements: readonly number[]): F64 {
  const h = 1e-5;
  return Float64Array.from(elements, (i) => {
    const kept = x[i]!;
    x[i] = kept + h;
    const above = scalar();
    x[i] = kept - h;
    const below = scalar();
    x[i] = kept;
    return (above - below) / (2 * h);
  });
}
