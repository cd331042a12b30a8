/**
 * AdamW (arXiv:1711.05101) with f32 moments and, for bf16 parameters, f32 master weights; clipping by the global norm.
 * A step whose gradients are not finite is refused as a whole: nothing is written.
 */
import { parameterGradient } from '../autograd.ts';
import { keep, Tensor } from '../tensor.ts';

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

interface Slot {
  parameter: Tensor;
  /** f32 copy that accumulates the updates of a bf16 parameter; the parameter itself when it is f32. */
  master: Tensor;
  m: Tensor;
  v: Tensor;
  weightDecay: number;
}

/** Keeps clipping finite when the norm is 0; the value that torch.nn.utils.clip_grad_norm_ uses. */
const CLIP_EPS = 1e-6;

export class AdamW {
  readonly #slots = new Map<string, Slot>();
  readonly #betas: readonly [number, number];
  readonly #eps: number;
  #stepCount = 0;

  /** The parameters stay their owner's; moments and masters are this optimizer's until dispose(). */
  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdamWOptions = {}) {
    const { betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0 } = options;
    this.#betas = betas;
    this.#eps = eps;
    for (const [name, parameter] of parameters) {
      const { device, shape } = parameter;
      parameterGradient(parameter);
      this.#slots.set(name, {
        parameter,
        master: parameter.dtype === 'f32' ? parameter : keep(parameter.cast('f32')),
        m: keep(Tensor.zeros(device, shape)),
        v: keep(Tensor.zeros(device, shape)),
        weightDecay: shape.length > 1 ? weightDecay : 0,
      });
    }
  }

  /** Completed steps; the next one is stepCount + 1 in the bias correction. */
  get stepCount(): number {
    return this.#stepCount;
  }

  /**
   * One update with the gradients accumulated so far. `maxGradNorm` null or 0 does not clip.
   * @returns applied false, with everything unchanged, when the global norm is not finite
   */
  step(learningRate: number, options: { maxGradNorm?: number | null } = {}): StepResult {
    const gradNorm = this.#gradNorm();
    if (!Number.isFinite(gradNorm)) return { gradNorm, applied: false };
    const { maxGradNorm } = options;
    const clip = maxGradNorm ? Math.min(1, maxGradNorm / (gradNorm + CLIP_EPS)) : 1;
    this.#stepCount++;
    const [beta1, beta2] = this.#betas;
    for (const { parameter, master, m, v, weightDecay } of this.#slots.values()) {
      const { native } = parameter.device;
      native.adamwStep(
        master.handle,
        m.handle,
        v.handle,
        parameterGradient(parameter).handle,
        learningRate,
        beta1,
        beta2,
        this.#eps,
        weightDecay,
        this.#stepCount,
        clip,
      );
      if (master !== parameter) native.cast(parameter.handle, master.handle);
    }
    return { gradNorm, applied: true };
  }

  /** Sets all gradients to zero; call it before a step's first micro-batch. */
  zeroGrad(): void {
    for (const { parameter } of this.#slots.values()) {
      parameter.device.native.fill(parameterGradient(parameter).handle, 0);
    }
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
  }

  dispose(): void {
    for (const { parameter, master, m, v } of this.#slots.values()) {
      m.dispose();
      v.dispose();
      if (master !== parameter) master.dispose();
    }
    this.#slots.clear();
  }

  #gradNorm(): number {
    let sum = 0;
    for (const { parameter } of this.#slots.values()) {
      sum += parameter.device.native.sumSquares(parameterGradient(parameter).handle);
    }
    return Math.sqrt(sum);
  }
}
