// The tensor ops of the native addon: the types of each entry of struct Ops in native/core/ops.h, under its name.
// Formulas, shapes and sources stand there; this file adds nothing to them and imports nothing.

/** An opaque tensor. Only the addon makes them; a foreign object in its place is an Error, never a crash. */
export type Handle = object;

/** A safe integer ≥ 0, or a 64-bit bigint. */
export type Word = number | bigint;

export interface NativeOps {
  // elementwise
  fill(x: Handle, value: number): void;
  copy(dst: Handle, src: Handle): void;
  cast(dst: Handle, src: Handle): void;
  add(out: Handle, a: Handle, b: Handle): void;
  axpy(y: Handle, alpha: number, x: Handle): void;
  scale(y: Handle, alpha: number): void;
  addBias(y: Handle, b: Handle): void;
  biasBackward(db: Handle, dy: Handle): void;

  // reductions
  sumSquares(x: Handle): number;
  hasNonFinite(x: Handle): boolean;

  // random numbers
  dropoutForward(y: Handle, x: Handle, p: number, seed: Word, stream: Word): void;
  dropoutBackward(dx: Handle, dy: Handle, p: number, seed: Word, stream: Word): void;
  randomUniform(x: Handle, lo: number, hi: number, seed: Word, stream: Word): void;
  randomNormal(x: Handle, mean: number, std: number, seed: Word, stream: Word): void;

  // linear algebra
  gemm(c: Handle, a: Handle, b: Handle, transA: boolean, transB: boolean, alpha: number, beta: number): void;
  /** The result is an opaque u8 tensor for gemmPacked. */
  packWeight(w: Handle): Handle;
  packWeightInt8(w: Handle): Handle;
  gemmPacked(c: Handle, a: Handle, packed: Handle, alpha: number, beta: number): void;
  loraLinearForward(
    y0: Handle,
    y1: Handle | null,
    y2: Handle | null,
    h: Handle,
    x: Handle,
    dropped: Handle | null,
    w0: Handle,
    w1: Handle | null,
    w2: Handle | null,
    bias0: Handle | null,
    bias1: Handle | null,
    bias2: Handle | null,
    a: Handle,
    b0: Handle | null,
    b1: Handle | null,
    b2: Handle | null,
    scale0: number,
    scale1: number,
    scale2: number,
  ): void;
  loraLinearBackward(
    dx: Handle | null,
    ddropped: Handle | null,
    da: Handle,
    db0: Handle | null,
    db1: Handle | null,
    db2: Handle | null,
    dy0: Handle,
    dy1: Handle | null,
    dy2: Handle | null,
    x: Handle,
    dropped: Handle | null,
    h: Handle,
    w0: Handle,
    w1: Handle | null,
    w2: Handle | null,
    a: Handle,
    b0: Handle | null,
    b1: Handle | null,
    b2: Handle | null,
    scale0: number,
    scale1: number,
    scale2: number,
    beta: number,
  ): void;

  // rows
  embeddingForward(out: Handle, weight: Handle, ids: Handle): void;
  embeddingBackward(dw: Handle, dout: Handle, ids: Handle): void;
  gatherRows(out: Handle, x: Handle, rows: Handle): void;
  scatterAddRows(dx: Handle, dout: Handle, rows: Handle): void;

  // norms and rotary embedding
  rmsNormForward(y: Handle, rstd: Handle, x: Handle, w: Handle, eps: number): void;
  rmsNormBackward(
    dx: Handle,
    dw: Handle | null,
    dy: Handle,
    x: Handle,
    w: Handle,
    rstd: Handle,
    dres: Handle | null,
  ): void;
  addRmsNormForward(
    y: Handle,
    z: Handle,
    rstd: Handle,
    x: Handle,
    delta: Handle,
    w: Handle,
    eps: number,
  ): void;
  qkNormRopeForward(
    y: Handle,
    rstd: Handle | null,
    x: Handle,
    w: Handle | null,
    cos: Handle,
    sin: Handle,
    positions: Handle,
    headDim: number,
    eps: number,
  ): void;
  qkNormRopeBackward(
    dx: Handle,
    dw: Handle | null,
    dy: Handle,
    x: Handle | null,
    w: Handle | null,
    rstd: Handle | null,
    cos: Handle,
    sin: Handle,
    positions: Handle,
    headDim: number,
  ): void;

  // attention
  attentionForward(
    out: Handle,
    lse: Handle,
    q: Handle,
    k: Handle,
    v: Handle,
    cuSeqlens: Handle,
    headDim: number,
    scale: number,
    window: number,
  ): void;
  attentionBackward(
    dq: Handle,
    dk: Handle,
    dv: Handle,
    dout: Handle,
    out: Handle,
    lse: Handle,
    q: Handle,
    k: Handle,
    v: Handle,
    cuSeqlens: Handle,
    headDim: number,
    scale: number,
    window: number,
  ): void;
  kvWrite(kCache: Handle, vCache: Handle, k: Handle, v: Handle, slots: Handle): void;
  pagedAttentionForward(
    out: Handle,
    q: Handle,
    kCache: Handle,
    vCache: Handle,
    blockTables: Handle,
    cuSeqlensQ: Handle,
    contextLens: Handle,
    blockSize: number,
    headDim: number,
    scale: number,
    window: number,
  ): void;

  // activation, loss, optimizer
  swigluForward(y: Handle, gate: Handle, up: Handle): void;
  swigluBackward(dgate: Handle, dup: Handle, dy: Handle, gate: Handle, up: Handle): void;
  linearCrossEntropy(
    losses: Handle,
    correct: Handle,
    dx: Handle | null,
    dw: Handle | null,
    x: Handle,
    w: Handle,
    targets: Handle,
    rowScale: Handle | null,
    gradScale: number,
  ): void;
  adamwStep(
    p: Handle,
    m: Handle,
    v: Handle,
    g: Handle,
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    weightDecay: number,
    step: number,
    gradScale: number,
  ): void;

  // serving
  linearGroup(
    y0: Handle,
    y1: Handle | null,
    y2: Handle | null,
    x: Handle,
    w0: Handle,
    w1: Handle | null,
    w2: Handle | null,
    bias0: Handle | null,
    bias1: Handle | null,
    bias2: Handle | null,
    pool: Handle | null,
    table: Handle | null,
    slots: Handle | null,
  ): void;
  sampleTokens(
    tokens: Handle,
    logprobs: Handle | null,
    topTokens: Handle | null,
    logits: Handle,
    floats: Handle,
    ints: Handle,
    biasOffsets: Handle | null,
    biasTokens: Handle | null,
    biasValues: Handle | null,
    counts: Handle | null,
    mask: Handle | null,
    vocabulary: number,
  ): void;
}
