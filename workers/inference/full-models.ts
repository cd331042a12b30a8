/**
 * Fully fine-tuned models beside the base model: one in memory at a time, in turns. Requests for another one wait until
 * the present one has answered what came before them; first come, first served.
 * Knows hosts by their verbs; must not know tensors.
 */
import type { EngineEvent, GenerationRequest } from './generation.ts';
import { modelUnavailable } from './refusals.ts';

/** Where a model's folder lies and what it is called. */
export interface FullModel {
  modelId: string;
  digest: string;
  directory: string;
}

/** A loaded model with its own engine loop. */
export interface Host {
  readonly loop: {
    readonly idle: boolean;
    submit(request: GenerationRequest): void;
    cancel(id: number): void;
    step(): boolean;
    tell(): void;
  };
  dispose(): void;
}

export interface FullModelsOptions {
  /** Loads a model; throws when it cannot. */
  open: (directory: string) => Host;
  deliver: (events: EngineEvent[]) => void;
  /** How long a failure is remembered. */
  retryAfterMilliseconds: number;
  now?: () => number;
}

interface Waiting {
  request: GenerationRequest;
  model: FullModel;
}

export class FullModels {
  readonly #options: FullModelsOptions;
  readonly #now: () => number;
  readonly #failures = new Map<string, { message: string; until: number }>();
  #waiting: Waiting[] = [];
  #resident: { digest: string; host: Host } | null = null;

  constructor(options: FullModelsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Digest of the model in memory. */
  get resident(): string | null {
    return this.#resident?.digest ?? null;
  }

  /** Whether a step would do something. */
  get busy(): boolean {
    return this.#waiting.length > 0 || this.#resident?.host.loop.idle === false;
  }

  submit(request: GenerationRequest, model: FullModel): void {
    this.#waiting.push({ request, model });
  }

  cancel(id: number): void {
    this.#waiting = this.#waiting.filter(({ request }) => request.id !== id);
    this.#resident?.host.loop.cancel(id);
  }

  /** Tells now what the last step put off. */
  tell(): void {
    this.#resident?.host.loop.tell();
  }

  /** One step of the model in memory, after changing it if it is another's turn; false when nothing is left to do. */
  step(): boolean {
    this.#admit();
    const busy = this.#resident?.host.loop.step() ?? false;
    return busy || this.#waiting.length > 0;
  }

  /** Hands over every leading request of the model whose turn it is. */
  #admit(): void {
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      if (next.model.digest !== this.#resident?.digest) {
        if (this.#resident && !this.#resident.host.loop.idle) return;
        if (!this.#load(next.model)) {
          this.#refuse(next.model);
          continue;
        }
      }
      this.#waiting.shift();
      this.#resident!.host.loop.submit(next.request);
    }
  }

  #load({ digest, directory }: FullModel): boolean {
    const failure = this.#failures.get(digest);
    if (failure && failure.until > this.#now()) return false;
    this.#failures.delete(digest);
    this.#resident?.host.dispose();
    this.#resident = null;
    try {
      this.#resident = { digest, host: this.#options.open(directory) };
      return true;
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      if (this.#failures.size >= 1024) this.#failures.clear(); // bounded; forgetting only costs another load
      this.#failures.set(digest, { message, until: this.#now() + this.#options.retryAfterMilliseconds });
      return false;
    }
  }

  #refuse({ digest, modelId }: FullModel): void {
    const { message, until } = this.#failures.get(digest)!;
    const error = modelUnavailable(modelId, message, Math.max(1, Math.ceil((until - this.#now()) / 1000)));
    const refused = this.#waiting.filter(({ model }) => model.digest === digest);
    this.#waiting = this.#waiting.filter(({ model }) => model.digest !== digest);
    this.#options.deliver(refused.map(({ request }): EngineEvent => [request.id, { type: 'error', error }]));
  }
}
