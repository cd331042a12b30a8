/**
 * Reverse-mode differentiation over fused ops. The tape knows which values were computed from trainable ones, owns what
 * the ops saved, and frees both saves and intermediate gradients as backward() consumes it. It knows no op by name.
 *
 * An op computes its outputs, then calls tape.record(outputs, saved, backward). backward reads the gradients of the
 * outputs, and hands gradients to the inputs: give() for a finished tensor, target() to accumulate into one with a GEMM,
 * arrived() + replace() when a fused kernel adds in the gradient that is already there. Gradients of parameters are added
 * directly into parameterGradient(p), an f32 buffer that lives until the optimizer zeroes it.
 */
import { keep, scope, Tensor } from './tensor.ts';

interface Entry {
  outputs: readonly Tensor[];
  saved: readonly Tensor[];
  backward: (gradients: readonly (Tensor | null)[]) => void;
}

export class Tape {
  readonly #dry: boolean;
  #entries: Entry[] = [];
  /** How many entries saved a tensor that the tape took over from its scope. */
  #saves = new Map<Tensor, number>();
  #gradients = new Map<Tensor, Tensor>();
  /** How many values share one gradient tensor: it may be written in place only while this is 1. */
  #shares = new Map<Tensor, number>();

  /** A dry tape only marks what is trainable and saves nothing: the first pass of recomputed(). */
  constructor(options: { dry?: boolean } = {}) {
    this.#dry = options.dry ?? false;
  }

  /**
   * Notes an op whose `outputs` depend on something trainable. `saved` tensors that a scope owns now belong to the tape;
   * parameters and tensors with another owner are left alone.
   */
  record(outputs: readonly Tensor[], saved: readonly Tensor[], backward: Entry['backward']): void {
    for (const output of outputs) output.requiresGrad = true;
    if (this.#dry) return;
    const held = saved.filter((tensor) => this.#hold(tensor));
    this.#entries.push({ outputs, saved: held, backward });
  }

  /**
   * Walks the entries from last to first. Gradients must have been seeded by give() (the loss op does).
   * The tape is empty afterwards, also when an op throws.
   * @returns the gradient that arrived at `leaf`, owned by the caller; null when none did or no leaf was named.
   */
  backward(leaf?: Tensor): Tensor | null {
    try {
      for (let entry = this.#entries.pop(); entry !== undefined; entry = this.#entries.pop()) {
        this.#step(entry);
      }
      return leaf === undefined ? null : this.#take(leaf);
    } finally {
      this.dispose();
    }
  }

  /** Frees everything the tape holds: saved tensors and unread gradients. */
  dispose(): void {
    this.#entries = [];
    for (const tensor of this.#saves.keys()) tensor.dispose();
    this.#saves.clear();
    for (const gradient of this.#shares.keys()) gradient.dispose();
    this.#gradients.clear();
    this.#shares.clear();
  }

  /** Adds `gradient` to what has arrived at `tensor`. The tape owns it from here; the same tensor may be given twice. */
  give(tensor: Tensor, gradient: Tensor): void {
    if (!tensor.requiresGrad) return;
    const present = this.#gradients.get(tensor);
    if (present === undefined) {
      this.#share(tensor, gradient);
    } else if (this.#shares.get(present) === 1) {
      present.device.native.axpy(present.handle, 1, gradient.handle);
    } else {
      const sum = Tensor.empty(present.device, present.shape, present.dtype);
      sum.device.native.add(sum.handle, present.handle, gradient.handle);
      this.#drop(tensor);
      this.#share(tensor, sum);
    }
  }

  /** Like give(), for a gradient that stays its caller's: the tape neither writes to it nor disposes it. */
  lend(tensor: Tensor, gradient: Tensor): void {
    this.give(tensor, gradient.reshape(gradient.shape));
    const view = this.#gradients.get(tensor);
    if (view !== undefined) this.#shares.set(view, (this.#shares.get(view) ?? 0) + 1);
  }

  /** A gradient buffer for `tensor` to write with C = … + beta·C: fresh (beta 0) or the one that is there (beta 1). */
  target(tensor: Tensor): { gradient: Tensor; beta: 0 | 1 } {
    const present = this.#gradients.get(tensor);
    if (present === undefined) {
      const gradient = Tensor.empty(tensor.device, tensor.shape, tensor.dtype);
      this.#share(tensor, gradient);
      return { gradient, beta: 0 };
    }
    if (this.#shares.get(present) === 1) return { gradient: present, beta: 1 };
    const own = present.clone();
    this.#drop(tensor);
    this.#share(tensor, own);
    return { gradient: own, beta: 1 };
  }

  /** What has arrived at `tensor` so far, still the tape's; null when nothing has. */
  arrived(tensor: Tensor): Tensor | null {
    return this.#gradients.get(tensor) ?? null;
  }

  /** Puts `gradient` in the place of what has arrived at `tensor` (a fused kernel has already added that in). */
  replace(tensor: Tensor, gradient: Tensor): void {
    this.#drop(tensor);
    this.give(tensor, gradient);
  }

  #take(tensor: Tensor): Tensor | null {
    const gradient = this.#gradients.get(tensor);
    if (gradient === undefined) return null;
    if (this.#shares.get(gradient) !== 1) return keep(gradient.clone());
    this.#gradients.delete(tensor);
    this.#shares.delete(gradient);
    return gradient;
  }

  #step(entry: Entry): void {
    scope(() => {
      const gradients = entry.outputs.map((output) => this.#gradients.get(output) ?? null);
      if (gradients.some((gradient) => gradient !== null)) entry.backward(gradients);
    });
    for (const output of entry.outputs) this.#drop(output);
    this.#release(entry.saved);
  }

  #hold(tensor: Tensor): boolean {
    const count = this.#saves.get(tensor);
    if (count === undefined && tensor.owner === null) return false;
    this.#saves.set(keep(tensor), (count ?? 0) + 1);
    return true;
  }

  #release(saved: readonly Tensor[]): void {
    for (const tensor of saved) {
      const count = (this.#saves.get(tensor) ?? 1) - 1;
      if (count > 0) {
        this.#saves.set(tensor, count);
      } else {
        this.#saves.delete(tensor);
        tensor.dispose();
      }
    }
  }

  #share(tensor: Tensor, gradient: Tensor): void {
    this.#gradients.set(tensor, keep(gradient));
    this.#shares.set(gradient, (this.#shares.get(gradient) ?? 0) + 1);
  }

  #drop(tensor: Tensor): void {
    const gradient = this.#gradients.get(tensor);
    if (gradient === undefined) return;
    this.#gradients.delete(tensor);
    const shares = (this.#shares.get(gradient) ?? 1) - 1;
    if (shares > 0) {
      this.#shares.set(gradient, shares);
    } else {
      this.#shares.delete(gradient);
      gradient.dispose();
    }
  }
}

/** True when `tape` is on and any of the given tensors is trainable or computed from a trainable one. */
export function tracks(tape: Tape | null, ...inputs: (Tensor | null | undefined)[]): tape is Tape {
  return tape !== null && inputs.some((input) => input?.requiresGrad === true);
}

/** The f32 buffer into which ops add the gradient of parameter `p`; created with zeros on first use. */
export function parameterGradient(p: Tensor): Tensor {
  if (p.grad === null && p.rowsOf !== null) {
    const { whole, start } = p.rowsOf;
    p.grad = scope(() => keep(parameterGradient(whole).rows(start, start + p.dim(0))));
  }
  p.grad ??= keep(Tensor.zeros(p.device, p.shape, 'f32'));
  return p.grad;
}

/**
 * Runs `block` without keeping its intermediate values and computes it again during backward (activation
 * checkpointing, arXiv:1604.06174). Only `input` stays alive in between. `block` must be deterministic; results are
 * identical to running it on the tape.
 */
export function recomputed(
  tape: Tape | null,
  input: Tensor,
  block: (tape: Tape | null, input: Tensor) => Tensor,
): Tensor {
  if (tape === null) return scope(() => block(null, input));
  const output = scope(() => block(new Tape({ dry: true }), input));
  if (!output.requiresGrad) return output;
  tape.record([output], [input], ([arrived]) => {
    const inner = new Tape();
    try {
      const again = scope(() => block(inner, input));
      inner.lend(again, arrived!);
      const gradient = inner.backward(input);
      if (gradient !== null) tape.give(input, gradient);
    } finally {
      inner.dispose();
    }
  });
  return output;
}
