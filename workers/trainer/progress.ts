/**
 * Turns steps into OpenAI's events and writes them in order and in batches, beside the training and never in its way.
 * Knows the wording and the data keys; knows no tensors.
 */
import type { Database } from '../../src/db/client.ts';
import type { Log } from '../../src/log.ts';
import {
  appendEvents,
  type Fence,
  message,
  metrics,
  type NewEvent,
  type ProgressUpdate,
} from '../../src/queue/queue.ts';
import { publicMetrics } from './measured.ts';
import type { StepDone } from './messages.ts';
import { reasonOf, untilDone } from './retry.ts';

const LOSS_DECIMALS = 2;
const FLUSH_MS = 200;

/** The event of a step: `Step 299/300: training loss=0.00` and whatever else was measured. */
export function stepEvent(done: StepDone): NewEvent {
  const { step, totalSteps, train, validation, fullValidation } = done;
  const losses: [string, number | undefined][] = [
    ['training loss', train?.loss],
    ['validation loss', validation?.loss],
    ['full validation loss', fullValidation?.loss],
  ];
  const text = losses.filter((pair): pair is [string, number] => pair[1] !== undefined);
  const data: Record<string, unknown> = { step, total_steps: totalSteps };
  if (train) {
    Object.assign(data, publicMetrics('train', train));
    data.learning_rate = train.learningRate;
    data.grad_norm = train.gradNorm;
    data.tokens_per_second = train.tokensPerSecond;
    data.epoch = done.epoch;
    data.eta_seconds = train.etaSeconds;
  }
  if (validation) Object.assign(data, publicMetrics('valid', validation));
  if (fullValidation) Object.assign(data, publicMetrics('full_valid', fullValidation));
  const measured = text.map(([name, loss]) => `${name}=${loss.toFixed(LOSS_DECIMALS)}`).join(', ');
  // Clients expect a training loss in every metrics event; the base model's measurement before step 1 has none.
  if (!train) return message('info', `Before training: ${measured}`, data);
  return metrics(`Step ${step}/${totalSteps}: ${measured}`, data);
}

/**
 * The order of everything that an attempt writes about its job. Events wait up to 0.2 s for company; other writes
 * (a checkpoint's row) take their turn behind the events that came before them.
 */
export class ProgressWriter {
  readonly #database: Database;
  readonly #fence: Fence;
  readonly #signal: AbortSignal;
  readonly #log: Log;
  readonly #onError: (error: Error) => void;
  #waiting: NewEvent[] = [];
  #update: ProgressUpdate = {};
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> = Promise.resolve();

  /** `onError` is told of the first write that failed for good (a lost lease among others). */
  constructor(
    database: Database,
    fence: Fence,
    signal: AbortSignal,
    log: Log,
    onError: (error: Error) => void,
  ) {
    this.#database = database;
    this.#fence = fence;
    this.#signal = signal;
    this.#log = log;
    this.#onError = onError;
  }

  add(event: NewEvent | null, update: ProgressUpdate = {}): void {
    if (event) this.#waiting.push(event);
    this.#update = { ...this.#update, ...update };
    this.#timer ??= setTimeout(() => void this.flush().catch(this.#onError), FLUSH_MS);
  }

  /** Writes what waits; resolves when it and everything before it is committed. */
  async flush(): Promise<void> {
    await this.inTurn(async () => {});
  }

  /** Runs a write behind all events added so far. */
  inTurn<T>(write: () => Promise<T>): Promise<T> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const [events, update] = [this.#waiting, this.#update];
    this.#waiting = [];
    this.#update = {};
    const done = this.#turn.then(async () => {
      if (events.length > 0 || Object.keys(update).length > 0) {
        await this.#repeat(() => appendEvents(this.#database, this.#fence, events, update));
      }
      return this.#repeat(write);
    });
    // A failed write is final for the attempt: those behind it fail with it.
    this.#turn = done.then(() => {});
    this.#turn.catch(() => {});
    return done;
  }

  /** Forgets what was not written: the attempt is over. */
  close(): void {
    clearTimeout(this.#timer);
  }

  #repeat<T>(write: () => Promise<T>): Promise<T> {
    return untilDone(this.#signal, write, (error, waitMs) => {
      this.#log.warn(
        { reason: reasonOf(error), wait_ms: waitMs },
        'the database did not take a write; trying again',
      );
    });
  }
}
