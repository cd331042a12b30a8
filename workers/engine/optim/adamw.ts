/**
 * AdamW (arXiv:1711.05101) with f32 moments and, for bf16 parameters, f32 master weights; clipping by the global norm.
 * A step whose gradients are not finite is refused as a whole: nothing is written.
 */
import { parameterGradient } from '../autograd.ts';
import { readBytesLater } from '../deferred.ts';
import { keep, scope, Tensor } from '../tensor.ts';

export interface AdamWOptions {
  betas?: readonly [number, number];
  eps?: number;
  /** Decoupled decay; not applied to one-dimensional parameters (norms and biases). */
  weightDecay?: number;
}

export interface StepResult {
  /** Global L2 norm of the gradients before clipping; NaN or Infinity when the step was refused. */
  gradNorm: number;
  applied: boolean;
}

/** A step that has been asked for. read() waits for its numbers where they have not arrived. */
export interface PendingStep {
  read(): StepResult;
}

interface Slot {
  parameter: Tensor;
  /** f32 copy that accumulates the updates of a bf16 parameter; the parameter itself when it is f32. */
  master: Tensor;
  m: Tensor;
  v: Tensor;
  weightDecay: number;
}

/** Bytes of the optimizer's state where its tensors are: f64 Σ squares, f64 norm, i64 applied steps. */
const STATE_BYTES = 24;
/** Gradients of a shared buffer begin at multiples of this many f32. */
const GRADIENT_ALIGN = 64;

export class AdamW {
  readonly #slots = new Map<string, Slot>();
  readonly #betas: readonly [number, number];
  readonly #eps: number;
  /** Norm and step count are kept and decided where the tensors are, so that no step waits for the host. */
  readonly #state: Tensor;
  /** One buffer behind the gradients that this optimizer made (null: none), and the parameters that had theirs before. */
  readonly #gradients: Tensor | null;
  readonly #others: readonly Tensor[];
  #stepCount = 0;
  #pending: PendingStep | null = null;

  /** The parameters stay their owner's; moments and masters are this optimizer's until dispose(). */
  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdamWOptions = {}) {
    const { betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0 } = options;
    this.#betas = betas;
    this.#eps = eps;
    const [first] = parameters.values();
    if (first === undefined) throw new Error('an optimizer needs a parameter');
    this.#state = keep(Tensor.empty(first.device, [STATE_BYTES], 'u8'));
    this.#writeState();
    const hasGradient = ({ grad, rowsOf }: Tensor) =>
      grad !== null || (rowsOf !== null && rowsOf.whole.grad !== null);
    this.#others = [...parameters.values()].filter(hasGradient);
    this.#gradients = shareGradients([...parameters.values()].filter((parameter) => !hasGradient(parameter)));
    for (const [name, parameter] of parameters) {
      const { device, shape } = parameter;
      this.#slots.set(name, {
        parameter,
        master: parameter.dtype === 'f32' ? parameter : keep(parameter.cast('f32')),
        m: keep(Tensor.zeros(device, shape)),
        v: keep(Tensor.zeros(device, shape)),
        weightDecay: shape.length > 1 ? weightDecay : 0,
      });
    }
  }

  /** Completed steps; the next one is stepCount + 1 in the bias correction. Waits for a pending step. */
  get stepCount(): number {
    this.#pending?.read();
    return this.#stepCount;
  }

  /**
   * One update with the gradients accumulated so far. `maxGradNorm` null or 0 does not clip.
   * @returns applied false, with everything unchanged, when the global norm is not finite
   */
  step(learningRate: number, options: { maxGradNorm?: number | null } = {}): StepResult {
    return this.stepLater(learningRate, options).read();
  }

  /** step() without waiting for its numbers. */
  stepLater(learningRate: number, options: { maxGradNorm?: number | null } = {}): PendingStep {
    this.#pending?.read();
    // Infinity does not clip either.
    const maxGradNorm = Number.isFinite(options.maxGradNorm) ? Number(options.maxGradNorm) : 0;
    const slots = [...this.#slots.values()];
    const { native } = slots[0]!.parameter.device;
    // The norm sums in the order of the parameters; the update takes those with decay first.
    native.sumSquaresInto(
      this.#state.handle,
      slots.map(({ parameter }) => parameterGradient(parameter).handle),
    );
    const decayed = slots.filter(({ weightDecay }) => weightDecay > 0);
    const ordered = [...decayed, ...slots.filter(({ weightDecay }) => weightDecay === 0)];
    native.adamwList(
      this.#state.handle,
      ordered.map(({ master }) => master.handle),
      ordered.map(({ m }) => m.handle),
      ordered.map(({ v }) => v.handle),
      ordered.map(({ parameter }) => parameterGradient(parameter).handle),
      ordered.map(({ parameter }) => parameter.handle),
      learningRate,
      ...this.#betas,
      this.#eps,
      decayed[0]?.weightDecay ?? 0,
      decayed.length,
      maxGradNorm,
    );
    return this.#pendingStep();
  }

  /** Sets all gradients to zero; call it before a step's first micro-batch. */
  zeroGrad(): void {
    const shared = this.#gradients === null ? [] : [this.#gradients];
    for (const gradient of [...shared, ...this.#others.map(parameterGradient)])
      gradient.device.native.fill(gradient.handle, 0);
  }

  /** Moments and masters by name: `<parameter>.exp_avg`, `.exp_avg_sq`, and `.master` of bf16 parameters. */
  state(): Map<string, Tensor> {
    const state = new Map<string, Tensor>();
    for (const [name, { parameter, master, m, v }] of this.#slots) {
      state.set(`${name}.exp_avg`, m);
      state.set(`${name}.exp_avg_sq`, v);
      if (master !== parameter) state.set(`${name}.master`, master);
    }
    return state;
  }

  /**
   * Takes over saved state; with the parameters restored too, training continues bit for bit.
   * @throws when a tensor is missing or has another shape or dtype; nothing is changed then
   */
  loadState(get: (name: string) => Tensor | undefined, stepCount: number): void {
    const sources = [...this.state()].map(([name, target]) => {
      const source = get(name);
      if (source === undefined) throw new Error(`optimizer state lacks ${name}`);
      if (source.dtype !== 'f32' || source.shape.join() !== target.shape.join()) {
        throw new Error(
          `optimizer state ${name} is ${source.dtype} [${source.shape}], not f32 [${target.shape}]`,
        );
      }
      return { source, target };
    });
    for (const { source, target } of sources) target.device.native.copy(target.handle, source.handle);
    for (const { parameter, master } of this.#slots.values()) {
      if (master !== parameter) parameter.device.native.cast(parameter.handle, master.handle);
    }
    this.#stepCount = stepCount;
    this.#writeState();
  }

  dispose(): void {
    for (const { parameter, master, m, v } of this.#slots.values()) {
      m.dispose();
      v.dispose();
      if (master !== parameter) master.dispose();
    }
    this.#slots.clear();
    this.#gradients?.dispose();
    this.#state.dispose();
  }

  #writeState(): void {
    const raw = new DataView(new ArrayBuffer(STATE_BYTES));
    raw.setBigInt64(16, BigInt(this.#stepCount), true);
    this.#state.device.native.tensorWrite(this.#state.handle, raw);
  }

  #pendingStep(): PendingStep {
    const before = this.#stepCount;
    const state = readBytesLater(this.#state);
    let result: StepResult | null = null;
    const read = (): StepResult => {
      if (result === null) {
        const raw = new DataView(state.read().buffer);
        this.#stepCount = Number(raw.getBigInt64(16, true));
        this.#pending = null;
        result = { gradNorm: raw.getFloat64(8, true), applied: this.#stepCount > before };
      }
      return result;
    };
    this.#pending = { read };
    return this.#pending;
  }
}

/** Gives each parameter a gradient of zeros that is a view of one buffer, so that one fill clears them all. */
function shareGradients(parameters: readonly Tensor[]): Tensor | null {
  const [first] = parameters;
  if (first === undefined) return null;
  // Rows of one tensor have their gradients where that tensor has its own.
  const wholes = [...new Set(parameters.map((parameter) => parameter.rowsOf?.whole ?? parameter))];
  let total = 0;
  const starts = wholes.map(({ size }) => {
    const start = total;
    total += Math.ceil(size / GRADIENT_ALIGN) * GRADIENT_ALIGN;
    return start;
  });
  const shared = keep(Tensor.zeros(first.device, [total]));
  wholes.forEach((whole, i) => {
    const start = starts[i]!;
    whole.grad = scope(() => keep(shared.rows(start, start + whole.size).reshape(whole.shape)));
  });
  return shared;
}
