// The part of an inference worker that looks into files, with the shipped tokenizer and a real thread, registered for
// the base model of the tests. It has no engine.
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import type { Config } from '../../src/config.ts';
import type { Database } from '../../src/db/client.ts';
import { workers } from '../../src/db/schema.ts';
import { ApiError } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { handleInspect, Inspector } from '../../workers/inference/inspect.ts';
import { toWorkerError } from '../../workers/inference/request.ts';
import { BASE_MODEL, WORKER_TOKEN } from '../helpers/app.ts';

const MODEL = path.join(import.meta.dirname, '..', '..', 'models', 'lathe-tiny');

export class InspectingWorker {
  readonly id = newId('worker_');
  readonly #server: Server;
  readonly #inspector: Inspector;
  readonly #database: Database;

  private constructor(database: Database, storage: Config['storage']) {
    this.#database = database;
    this.#inspector = new Inspector(MODEL, storage);
    this.#server = createServer((incoming, response) => {
      if (incoming.headers.authorization !== `Bearer ${WORKER_TOKEN}` || incoming.url !== '/inspect') {
        response.writeHead(401).end('{}');
        return;
      }
      const deps = { inspector: this.#inspector, baseModel: BASE_MODEL, draining: () => false };
      handleInspect(deps, incoming, response).catch((error: unknown) => {
        if (!(error instanceof ApiError)) console.error(error);
        const status = error instanceof ApiError ? error.status : 500;
        response.writeHead(status, { 'content-type': 'application/json' });
        response.end(JSON.stringify(error instanceof ApiError ? toWorkerError(error) : {}));
      });
    });
  }

  static async start(database: Database, storage: Config['storage']): Promise<InspectingWorker> {
    const worker = new InspectingWorker(database, storage);
    worker.#server.listen(0, '127.0.0.1');
    await once(worker.#server, 'listening');
    await database.db.insert(workers).values({
      id: worker.id,
      kind: 'inference',
      url: `http://127.0.0.1:${(worker.#server.address() as AddressInfo).port}`,
      baseModel: BASE_MODEL,
      device: 'none',
      host: 'localhost',
      pid: process.pid,
      state: 'ready',
      heartbeatAt: new Date(Date.now() + 3_600_000),
    });
    return worker;
  }

  async stop(): Promise<void> {
    await this.#database.db.delete(workers).where(eq(workers.id, this.id));
    this.#server.closeAllConnections();
    this.#server.close();
    await this.#inspector.close();
  }
}
