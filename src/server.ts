/**
 * Puts the app on a port: limits for slow and endless connections, and a drain on SIGTERM (new requests get 503 while
 * open ones finish). Which routes there are is src/app.ts's affair.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from '@hono/node-server';
import { createApp } from './app.ts';
import type { Config } from './config.ts';
import { openDatabase } from './db/client.ts';
import { startBatchRunner } from './domain/batches/runner.ts';
import { feedOf } from './domain/jobs/event-feed.ts';
import { startSweeper } from './domain/sweep/run.ts';
import { startWebhookDelivery } from './domain/webhooks/deliver.ts';
import { restarting, tellDrainOver } from './http/drain.ts';
import { innerRequests } from './http/inner-requests.ts';
import type { Log } from './log.ts';
import { openStorage } from './storage/open.ts';

export interface RunningServer {
  url: string;
  /** Refuses new requests, waits up to `drainSeconds` for open ones, ends generations with an error, closes everything. */
  close(drainSeconds?: number): Promise<void>;
}

type Fetch = (request: Request, env?: unknown) => Response | Promise<Response>;

/** Sockets without a byte in either direction for this long are cut while a request is still coming in. */
const IDLE_MS = 30_000;
const CONNECTIONS_MAX = 4_096;
/** Time for answers that the end of the drain cuts short to say so. */
const LAST_WORDS_MS = 1_000;

/** Opens database and storage and listens. Throws when the port is taken (`code` EADDRINUSE). */
export async function startServer(config: Config, log: Log): Promise<RunningServer> {
  if (config.databaseUrl === null) throw new Error('The API needs a database: databaseUrl is not set.');
  const database = openDatabase(config.databaseUrl, {
    connections: config.databasePool,
    name: 'lathe api',
    onConnectionError: (error) => log.warn({ err: error }, 'lost a database connection'),
  });
  try {
    const storage = await openStorage(config);
    const app = createApp({ config, database, storage, log });
    const listening = await listen(app.fetch as Fetch, config);
    const deps = { config, database, storage, log };
    const batches = startBatchRunner({ ...deps, ask: innerRequests(deps, { limited: false }) });
    const sweeper = startSweeper({ config, database, storage, log });
    const webhooks = startWebhookDelivery(deps);
    return {
      url: listening.url,
      close: async (drainSeconds = config.drainSeconds) => {
        feedOf(database, log).close(); // streams of events have no end of their own
        await Promise.all([listening.close(drainSeconds), sweeper.stop(), batches.stop(), webhooks.stop()]);
        await database.close();
      },
    };
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** Serves `fetch` on config.host and config.port. */
export async function listen(fetch: Fetch, config: Pick<Config, 'host' | 'port'>): Promise<RunningServer> {
  let draining = false;
  const guarded: Fetch = (request, env) => (draining ? drainingAnswer() : fetch(request, env));
  const server = await bind(guarded, config);
  const open = trackRequests(server);
  const { port } = server.address() as AddressInfo;
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  return {
    url: `http://${host}:${port}`,
    close: async (drainSeconds = 0) => {
      draining = true;
      const end = performance.now() + drainSeconds * 1000;
      while (open.size > 0 && performance.now() < end) await sleep(20);
      tellDrainOver(open);
      const cut = performance.now() + LAST_WORDS_MS;
      while (open.size > 0 && performance.now() < cut) await sleep(20);
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

function bind(fetch: Fetch, { host, port }: Pick<Config, 'host' | 'port'>): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = serve(
      {
        fetch,
        hostname: host,
        port,
        // A slow upload may take hours: the idle limit below catches dead ones, a limit on the whole would cut live ones.
        serverOptions: {
          requestTimeout: 0,
          headersTimeout: 10_000,
          keepAliveTimeout: 5_000,
          maxHeaderSize: 16_384,
        },
      },
      () => resolve(server),
    ) as Server;
    server.maxConnections = CONNECTIONS_MAX;
    server.once('error', reject);
    server.timeout = IDLE_MS;
  });
}

/** The requests being answered. Also cuts sockets whose request stopped coming in; a quiet answer is left alone. */
function trackRequests(server: Server): Set<IncomingMessage> {
  const open = new Set<IncomingMessage>();
  const latest = new WeakMap<Socket, IncomingMessage>();
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    open.add(request);
    latest.set(request.socket, request);
    response.once('close', () => open.delete(request));
  });
  server.on('timeout', (socket: Socket) => {
    const request = latest.get(socket);
    if (!request?.complete || !open.has(request)) socket.destroy();
  });
  return open;
}

function drainingAnswer(): Response {
  const error = restarting();
  return Response.json(error.toBody(), {
    status: error.status,
    headers: { ...error.headers, connection: 'close' },
  });
}
