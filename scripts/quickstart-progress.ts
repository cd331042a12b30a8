/**
 * Follows a job through its events, as any client can: a bar that redraws itself on a terminal, a line now and then
 * anywhere else. Remembers the losses it saw.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type OpenAI from 'openai';

type Job = OpenAI.FineTuning.FineTuningJob;
type JobEvent = OpenAI.FineTuning.FineTuningJobEvent;

export interface Followed {
  job: Job;
  /** Seconds from the first training step's start to the job's end, on our clock. */
  trainSeconds: number | null;
  /** Loss over the whole validation file before training and after it. */
  baseValidLoss: number | null;
  tunedValidLoss: number | null;
}

const POLL_MS = 250;
const BAR_WIDTH = 28;
const ENDED = new Set(['succeeded', 'failed', 'cancelled']);

/** Polls the job until it has ended, showing its events; returns what was learned on the way. */
export async function followJob(client: OpenAI, jobId: string, out: NodeJS.WriteStream): Promise<Followed> {
  const seen = new Set<string>();
  const display = out.isTTY ? new Bar(out) : new Lines(out);
  const followed: Omit<Followed, 'job'> = { trainSeconds: null, baseValidLoss: null, tunedValidLoss: null };
  let runningSince: number | null = null;
  for (;;) {
    const job = await client.fineTuning.jobs.retrieve(jobId); // before the events: then its last ones are read too
    if (job.status === 'running') runningSince ??= performance.now();
    for (const event of await newEvents(client, jobId, seen)) {
      note(event, followed);
      display.show(event);
    }
    if (ENDED.has(job.status)) {
      display.end();
      if (runningSince !== null) followed.trainSeconds = (performance.now() - runningSince) / 1000;
      return { job, ...followed };
    }
    await sleep(POLL_MS);
  }
}

/** The events not seen yet, oldest first. The API gives the newest first. */
async function newEvents(client: OpenAI, jobId: string, seen: Set<string>): Promise<JobEvent[]> {
  const fresh: JobEvent[] = [];
  for await (const event of client.fineTuning.jobs.listEvents(jobId, { limit: 100 })) {
    if (seen.has(event.id)) break;
    seen.add(event.id);
    fresh.unshift(event);
  }
  return fresh;
}

function dataOf(event: JobEvent): Record<string, number | undefined> {
  return (event.data ?? {}) as Record<string, number | undefined>;
}

function note(event: JobEvent, followed: Omit<Followed, 'job'>): void {
  const loss = dataOf(event).full_valid_loss;
  if (loss === undefined) return;
  if (dataOf(event).step === 0) followed.baseValidLoss = loss;
  else followed.tunedValidLoss = loss;
}

/** "120/300  loss 0.123  4,567 tokens/s  12 s left" */
function figures(data: Record<string, number | undefined>): string {
  const { step = 0, total_steps, train_loss, tokens_per_second, eta_seconds } = data;
  const parts = [`step ${step}/${total_steps ?? '?'}`];
  if (train_loss !== undefined) parts.push(`loss ${train_loss.toFixed(3)}`);
  if (tokens_per_second !== undefined)
    parts.push(`${Math.round(tokens_per_second).toLocaleString('en')} tokens/s`);
  if (eta_seconds !== undefined) parts.push(`${Math.ceil(eta_seconds)} s left`);
  return parts.join('   ');
}

/** A line that is drawn over itself; other messages scroll above it. */
class Bar {
  readonly #out: NodeJS.WriteStream;
  #drawn = false;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
  }

  show(event: JobEvent): void {
    const data = dataOf(event);
    if (event.type !== 'metrics' || data.train_loss === undefined) {
      this.#line(`  ${event.message}`);
      return;
    }
    const share = Math.min(1, (data.step ?? 0) / (data.total_steps || 1));
    const full = Math.round(share * BAR_WIDTH);
    this.#clear();
    this.#out.write(
      `  ${'█'.repeat(full)}${'░'.repeat(BAR_WIDTH - full)}  ${figures(data)}`.slice(
        0,
        this.#out.columns - 1,
      ),
    );
    this.#drawn = true;
  }

  end(): void {
    if (this.#drawn) this.#out.write('\n');
    this.#drawn = false;
  }

  #line(text: string): void {
    this.#clear();
    this.#out.write(`${text}\n`);
  }

  #clear(): void {
    if (this.#drawn) this.#out.write('\r\x1b[2K');
    this.#drawn = false;
  }
}

/** Every message, and a step's figures at each tenth of the way. */
class Lines {
  readonly #out: NodeJS.WriteStream;
  #tenth = -1;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
  }

  show(event: JobEvent): void {
    const data = dataOf(event);
    if (event.type !== 'metrics' || data.train_loss === undefined) {
      this.#out.write(`  ${event.message}\n`);
      return;
    }
    const tenth = Math.floor((10 * (data.step ?? 0)) / (data.total_steps || 1));
    if (tenth === this.#tenth) return;
    this.#tenth = tenth;
    this.#out.write(`  ${figures(data)}\n`);
  }

  end(): void {}
}
