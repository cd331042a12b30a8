/**
 * New events of jobs for everybody who follows them: one poller for the whole process, however many followers there
 * are. Polling and not LISTEN/NOTIFY: notifying would slow down every write of a trainer. Knows nothing of HTTP.
 */
import type { Database } from '../../db/client.ts';
import type { Log } from '../../log.ts';
import { type EventRow, type JobHead, newEvents, readHeads, type Watched } from './event-repository.ts';
import { isTerminal } from './states.ts';

/** Told of new events in order (`seq` without a gap within one call), and of the end: no event comes after it. */
export interface FeedListener {
  onEvents(events: readonly EventRow[]): void;
  onEnd(lastSeq: number): void;
}

interface Watch extends Watched {
  listeners: Set<FeedListener>;
}

/** While events come, and when nothing has come for a while. */
const FAST_MS = 10;
const SLOW_MS = 250;
/** A job that writes now and then is met within this long; the pause grows by this factor with every empty round. */
const GROWTH = 1.2;
const AWAY_MS = 1_000;

export class EventFeed {
  readonly #database: Pick<Database, 'db'>;
  readonly #log: Log;
  readonly #watches = new Map<string, Watch>();
  #timer: NodeJS.Timeout | null = null;
  #pauseMs = FAST_MS;
  #polling = false;
  #closed = false;

  constructor(database: Pick<Database, 'db'>, log: Log) {
    this.#database = database;
    this.#log = log;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Tells `listener` of every event after `job.eventSeq` until the returned function is called or the feed closes. */
  follow(job: { id: string; projectId: string; eventSeq: number }, listener: FeedListener): () => void {
    if (this.#closed) {
      listener.onEnd(-1);
      return () => {};
    }
    let watch = this.#watches.get(job.id);
    if (!watch) {
      watch = { jobId: job.id, projectId: job.projectId, seq: job.eventSeq, listeners: new Set() };
      this.#watches.set(job.id, watch);
    }
    const { listeners } = watch;
    listeners.add(listener);
    this.#pauseMs = FAST_MS;
    this.#schedule();
    return () => {
      listeners.delete(listener);
      // Another watch of the job may stand there by now: this one had ended, or was left before.
      if (listeners.size === 0 && this.#watches.get(job.id) === watch) this.#watches.delete(job.id);
    };
  }

  /** Ends every follower: this process is leaving. Clients come back with the last id they saw. */
  close(): void {
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    for (const { listeners } of this.#watches.values()) for (const each of listeners) each.onEnd(-1);
    this.#watches.clear();
  }

  #schedule(): void {
    if (this.#timer || this.#polling || this.#closed || this.#watches.size === 0) return;
    this.#timer = setTimeout(() => void this.#round(), this.#pauseMs).unref();
  }

  async #round(): Promise<void> {
    this.#timer = null;
    this.#polling = true;
    try {
      const found = await this.#poll();
      this.#pauseMs = found ? FAST_MS : Math.min(SLOW_MS, this.#pauseMs * GROWTH);
    } catch (error) {
      this.#log.warn({ err: error }, 'events cannot be read at the moment; their followers wait');
      this.#pauseMs = AWAY_MS;
    } finally {
      this.#polling = false;
      this.#schedule();
    }
  }

  /** @returns whether anything was new */
  async #poll(): Promise<boolean> {
    if (this.#watches.size === 0) return false;
    const heads = await readHeads(this.#database.db, [...this.#watches.values()]);
    const behind = heads.filter((head) => head.eventSeq > (this.#watches.get(head.id)?.seq ?? head.eventSeq));
    const watched = behind.flatMap(({ id }) => this.#watches.get(id) ?? []);
    const events = watched.length > 0 ? await newEvents(this.#database.db, watched) : [];
    for (const group of groupedByJob(events)) {
      const watch = this.#watches.get(group[0]!.jobId);
      const fresh = watch ? group.filter(({ seq }) => seq > watch.seq) : [];
      if (!watch || fresh.length === 0) continue;
      watch.seq = fresh.at(-1)!.seq;
      for (const listener of watch.listeners) listener.onEvents(fresh);
    }
    for (const head of heads) this.#endIfOver(head);
    return events.length > 0;
  }

  /** State and number of events were read together, so a job that had ended then has no event beyond that number. */
  #endIfOver(head: JobHead): void {
    const watch = this.#watches.get(head.id);
    if (!watch || !isTerminal(head.status) || watch.seq < head.eventSeq) return;
    for (const listener of watch.listeners) listener.onEnd(head.eventSeq);
    this.#watches.delete(head.id);
  }
}

function groupedByJob(events: readonly EventRow[]): EventRow[][] {
  const groups: EventRow[][] = [];
  for (const event of events) {
    const last = groups.at(-1);
    if (last?.[0]?.jobId === event.jobId) last.push(event);
    else groups.push([event]);
  }
  return groups;
}

const feeds = new WeakMap<object, EventFeed>();

/** The process's feed over this database. */
export function feedOf(database: Database, log: Log): EventFeed {
  let feed = feeds.get(database);
  if (!feed) {
    feed = new EventFeed(database, log);
    feeds.set(database, feed);
  }
  return feed;
}
