/**
 * Runs the requests of a batch: each line that has no answer yet is asked, as often as it takes, and its answer is
 * written with the others of the moment in one transaction. What was asked but not yet written when the process dies
 * is asked again; what is written is never asked again.
 */
import { BASE_MODEL_CHANGED } from '../../errors.ts';
import { newId } from '../../ids.ts';
import { WORKER_LOST } from '../../inference/protocol.ts';
import type { AnswerRequest, InnerAnswer } from '../answer-request.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Identity } from '../keys/lookup.ts';
import { resolveModel } from '../models/registry.ts';
import type { Slots } from '../slots.ts';
import type { Load, Pause } from './idle-capacity.ts';
import { type LinePlace, parseLine, readLines } from './input.ts';
import { addResults, type Hold, type LineResult } from './queue-repository.ts';

export interface Work {
  hold: Hold;
  identity: Identity;
  endpoint: string;
  model: string;
  storageKey: string;
  /** Lines without an answer. */
  places: readonly LinePlace[];
}

export interface Means {
  deps: Pick<Dependencies, 'database' | 'storage' | 'log'>;
  ask: AnswerRequest;
  slots: Slots;
  load: Load;
  pause: Pause;
}

/** Failures of the server itself are repeated this often before they become the line's answer. */
const SERVER_ERRORS_MAX = 3;
const FLUSH_MS = 200;
const FLUSH_RECORDS = 64;
const NO_USAGE = { input: 0, cached: 0, output: 0 };

/** Resolves when every line has its answer written. Rejects with the signal's reason, HoldLost, or a storage error. */
export async function execute(work: Work, means: Means, signal: AbortSignal): Promise<void> {
  const base = await baseOf(work, means);
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  const results = new ResultWriter(work.hold, means, (error) => stop.abort(error));
  const running = new Set<Promise<void>>();
  try {
    for await (const [place, bytes] of readLines(means.deps.storage, work.storageKey, work.places)) {
      const giveBack = await means.slots.take(both);
      const line = answerLine(work, means, place, Uint8Array.from(bytes), base, both)
        .then((result) => results.add(result))
        .catch((error: unknown) => stop.abort(error))
        .finally(() => {
          giveBack();
          running.delete(line);
        });
      running.add(line);
    }
    await Promise.all(running);
    both.throwIfAborted();
  } finally {
    stop.abort(new Error('the batch is left'));
    await Promise.all(running);
    await results.close();
  }
  results.throwIfFailed();
}

/** Whose workers are watched; a model that is gone meanwhile has none, and its requests are answered at once. */
async function baseOf({ identity, model }: Work, { deps }: Means): Promise<string | null> {
  const found = await resolveModel(deps, identity.projectId, model).catch(() => null);
  return found?.base.id ?? null;
}

async function answerLine(
  work: Work,
  { ask, load, pause }: Means,
  { number }: LinePlace,
  bytes: Uint8Array,
  base: string | null,
  signal: AbortSignal,
): Promise<LineResult> {
  const request = parseLine(bytes, work.endpoint);
  if ('code' in request) throw new Error(`Line ${number} was good and is not any more: ${request.message}`);
  const { customId, body } = request;
  if (body.stream === true) return recordOf(number, customId, streamRefused());
  for (let failures = 0; ; ) {
    await pause.over(signal);
    if (base !== null) await load.untilIdle(base, signal);
    const answer = await ask(work.identity, work.endpoint, body, signal);
    if ((answer.status === 429 || answer.status === 503) && !isOver(answer)) {
      pause.refused(answer.retryAfterSeconds);
      continue;
    }
    if (answer.status >= 500 && !answer.isFinal && ++failures < SERVER_ERRORS_MAX) {
      pause.refused(answer.retryAfterSeconds);
      continue;
    }
    pause.answered();
    return recordOf(number, customId, answer);
  }
}

/**
 * A refusal that no later worker mends: what was learned needs other files. One whose workers were lost several times is
 * counted like a failure of the server: it may be the reason.
 */
function isOver({ status, text, isFinal }: InnerAnswer): boolean {
  if (status !== 503) return false;
  const { code } = (JSON.parse(text) as { error: { code: string | null } }).error;
  return code === WORKER_LOST || (isFinal && code === BASE_MODEL_CHANGED);
}

function streamRefused(): InnerAnswer {
  const error = {
    message: "Unsupported parameter: 'stream' is not supported in a batch.",
    type: 'invalid_request_error',
    param: 'stream',
    code: 'unsupported_parameter',
  };
  const text = JSON.stringify({ error });
  return { status: 400, requestId: newId('req_'), text, retryAfterSeconds: null, isFinal: true };
}

/** OpenAI's line: the answer, whatever its status; only what was never asked has an `error` of its own. */
function recordOf(line: number, customId: string, { status, requestId, text }: InnerAnswer): LineResult {
  const body = JSON.parse(text) as { usage?: Record<string, unknown> };
  const record = JSON.stringify({
    id: newId('batch_req_'),
    custom_id: customId,
    response: { status_code: status, request_id: requestId, body },
    error: null,
  });
  const { usage } = body;
  const count = (value: unknown) => (typeof value === 'number' ? value : 0);
  const details = usage?.prompt_tokens_details as { cached_tokens?: unknown } | undefined;
  return {
    line,
    failed: status !== 200,
    record,
    usage: usage
      ? {
          input: count(usage.prompt_tokens),
          cached: count(details?.cached_tokens),
          output: count(usage.completion_tokens),
        }
      : NO_USAGE,
  };
}

/** The line of a request that was never answered. */
export function unansweredRecord(line: number, customId: string, code: string, message: string): LineResult {
  const record = JSON.stringify({
    id: newId('batch_req_'),
    custom_id: customId,
    response: null,
    error: { code, message },
  });
  return { line, failed: true, record, usage: NO_USAGE };
}

/** Gathers answers for a moment and writes them together; after a failure it writes nothing more. */
class ResultWriter {
  readonly #hold: Hold;
  readonly #means: Means;
  readonly #onFailure: (error: unknown) => void;
  #gathered: LineResult[] = [];
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> = Promise.resolve();
  #failure: { error: unknown } | null = null;

  constructor(hold: Hold, means: Means, onFailure: (error: unknown) => void) {
    this.#hold = hold;
    this.#means = means;
    this.#onFailure = onFailure;
  }

  add(result: LineResult): void {
    this.#gathered.push(result);
    if (this.#gathered.length >= FLUSH_RECORDS) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  #flush(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    const records = this.#gathered;
    this.#gathered = [];
    this.#writing = this.#writing.then(async () => {
      if (this.#failure || records.length === 0) return;
      try {
        await this.#means.deps.database.transaction((tx) => addResults(tx, this.#hold, records));
      } catch (error) {
        this.#failure = { error };
        this.#onFailure(error);
      }
    });
  }

  /** Writes the rest and waits for it. */
  async close(): Promise<void> {
    this.#flush();
    await this.#writing;
  }

  throwIfFailed(): void {
    if (this.#failure) throw this.#failure.error;
  }
}
