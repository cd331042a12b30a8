/** This worker's row in `workers`, by which the API finds it. Knows the table's verbs; must not know what is served. */
import type { Database } from '../../src/db/client.ts';
import type { Log } from '../../src/log.ts';
import {
  heartbeatWorker,
  registerWorker,
  removeWorker,
  type WorkerRegistration,
} from '../../src/queue/processes.ts';

export class Registration {
  readonly #database: Database;
  readonly #log: Log;
  readonly #row: WorkerRegistration;
  readonly #heartbeatSeconds: number;
  #timer: NodeJS.Timeout | null = null;

  constructor(database: Database, log: Log, heartbeatSeconds: number, row: WorkerRegistration) {
    this.#database = database;
    this.#log = log;
    this.#row = row;
    this.#heartbeatSeconds = heartbeatSeconds;
  }

  /**
   * Writes the row with these changes and keeps it alive from then on. Later heartbeats that fail are only logged: a
   * database that is away is no reason to stop serving.
   */
  async announce(change: Partial<WorkerRegistration>): Promise<void> {
    Object.assign(this.#row, change);
    await registerWorker(this.#database, this.#row);
    this.#timer ??= setInterval(() => {
      heartbeatWorker(this.#database, this.#row).catch((error: unknown) => {
        this.#log.warn({ err: error }, 'a heartbeat was not written');
      });
    }, this.#heartbeatSeconds * 1000);
  }

  /** Stops the heartbeat and removes the row; the API's own age limit covers for a row that could not be removed. */
  async remove(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    await removeWorker(this.#database, this.#row.id).catch((error: unknown) => {
      this.#log.warn({ err: error }, 'the worker row was not removed');
    });
  }
}
