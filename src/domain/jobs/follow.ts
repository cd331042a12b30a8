/**
 * One follower of a job's events: first what was there, then what comes, without a gap and without an end of memory. A
 * reader that is too slow loses its queue, not its events: it reads them from the database again when it is ready.
 */
import { invalidValue } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import { getJob } from './control.ts';
import { type EventFeed, type FeedListener, feedOf } from './event-feed.ts';
import { type EventRow, eventsAfter, seqOfEvent } from './event-repository.ts';
import { isTerminal, type JobStatus } from './states.ts';

type Deps = Pick<Dependencies, 'database' | 'log'>;

/** Events that wait for a slow reader. */
const QUEUE_MAX = 256;
const PAGE = 200;

/** Why there are no more events: the job has ended, or this process (or the reader) left. */
export type FollowEnd = 'ended' | 'left';

export interface Following {
  /** Batches in order, to the last event of a job that has ended. */
  events: AsyncIterator<readonly EventRow[], FollowEnd>;
  /** The job has ended and there is nothing after the given event. */
  isOver: boolean;
}

/**
 * Follows a job from the event after `after` (null: from its first). Throws ApiError 404 for an unknown job, 400 for an
 * `after` that is no event of it.
 */
export async function followJob(
  deps: Deps,
  projectId: string,
  jobId: string,
  after: string | null,
): Promise<Following> {
  const job = await getJob(deps, projectId, jobId);
  const from = after === null ? 0 : await seqOfEvent(deps.database.db, projectId, jobId, after);
  if (from === null) throw invalidValue('after', `the job has no event '${after}' to continue from.`);
  const isOver = isTerminal(job.status as JobStatus) && from >= job.eventSeq;
  const feed = feedOf(deps.database, deps.log);
  return { events: new Follower(deps.database.db, feed, job, from), isOver };
}

class Follower implements AsyncIterator<readonly EventRow[], FollowEnd>, FeedListener {
  readonly #db: Deps['database']['db'];
  readonly #job: { id: string; projectId: string };
  readonly #leave: () => void;
  /** The last event handed out. */
  #cursor: number;
  #queue: EventRow[] = [];
  /** The queue does not continue the cursor: the database does. */
  #behind = true;
  /** Events end with this one; -1: at once. */
  #lastSeq: number | null = null;
  #wake: (() => void) | null = null;

  constructor(
    db: Deps['database']['db'],
    feed: EventFeed,
    job: { id: string; projectId: string; eventSeq: number },
    from: number,
  ) {
    this.#db = db;
    this.#job = job;
    this.#cursor = from;
    this.#leave = feed.follow(job, this);
  }

  onEvents(events: readonly EventRow[]): void {
    const next = (this.#queue.at(-1)?.seq ?? this.#cursor) + 1;
    if (this.#behind || events[0]!.seq !== next || this.#queue.length + events.length > QUEUE_MAX) {
      this.#queue = [];
      this.#behind = true;
    } else this.#queue.push(...events);
    this.#wake?.();
  }

  onEnd(lastSeq: number): void {
    this.#lastSeq = lastSeq;
    this.#wake?.();
  }

  async next(): Promise<IteratorResult<readonly EventRow[], FollowEnd>> {
    for (;;) {
      if (this.#queue.length > 0) return this.#give(this.#queue);
      if (this.#lastSeq !== null && this.#cursor >= this.#lastSeq) {
        this.#leave();
        return { done: true, value: this.#lastSeq < 0 ? 'left' : 'ended' };
      }
      if (this.#behind) {
        this.#behind = false; // before the read: what comes during it is either in the page or sets it again
        const page = await eventsAfter(this.#db, this.#job.projectId, this.#job.id, this.#cursor, PAGE);
        const came = this.#queue.filter(({ seq }) => seq > (page.at(-1)?.seq ?? this.#cursor));
        const given = page.length > 0 ? this.#give(page) : null;
        this.#queue = came;
        this.#behind ||= page.length === PAGE || (came.length > 0 && came[0]!.seq !== this.#cursor + 1);
        if (this.#behind) this.#queue = [];
        if (given) return given;
        continue;
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = null;
    }
  }

  async return(): Promise<IteratorResult<readonly EventRow[], FollowEnd>> {
    this.#leave();
    this.onEnd(-1);
    return { done: true, value: 'left' };
  }

  #give(events: readonly EventRow[]): IteratorResult<readonly EventRow[], FollowEnd> {
    this.#queue = [];
    this.#cursor = events.at(-1)!.seq;
    return { done: false, value: events };
  }
}
