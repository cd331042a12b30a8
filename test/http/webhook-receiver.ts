// A receiver of webhooks over real sockets, the SDK's client, and looks into the tables behind both.
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { sql } from 'drizzle-orm';
import OpenAI from 'openai';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import type { Config } from '../../src/config.ts';
import { requestCancel } from '../../src/domain/jobs/states.ts';
import { type TestApp, useApp } from '../helpers/app.ts';
import { addJob } from './rows.ts';

export const ALL_JOB_EVENTS = [
  'fine_tuning.job.succeeded',
  'fine_tuning.job.failed',
  'fine_tuning.job.cancelled',
] as const;
export type JobEvent = (typeof ALL_JOB_EVENTS)[number];

interface Received {
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
}

class Receiver {
  readonly t: TestApp;
  received: Received[] = [];
  /** What the next calls are answered with. */
  answer: number | 'silence' | 'redirect' = 200;
  origin = '';
  webhooks!: OpenAI['webhooks'];
  readonly #server: Server;

  constructor(t: TestApp) {
    this.t = t;
    this.#server = createServer(async (request, response) => {
      this.received.push({ path: request.url!, headers: request.headers, body: await text(request) });
      if (this.answer === 'silence') return;
      if (this.answer === 'redirect') response.writeHead(302, { location: `${this.origin}/elsewhere` }).end();
      else response.writeHead(this.answer).end('x'.repeat(200_000));
    });
  }

  async start(): Promise<void> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    this.origin = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    const { key: apiKey } = this.t.alice;
    this.webhooks = new OpenAI({ apiKey, baseURL: await this.t.serve(), maxRetries: 0 }).webhooks;
  }

  stop(): void {
    this.hangUp();
    this.#server.close();
  }

  hangUp(): void {
    this.#server.closeAllConnections();
  }

  async reset(): Promise<void> {
    this.received = [];
    this.answer = 200;
    await this.t.database.db.execute(sql`delete from webhook_deliveries`);
    await this.t.database.db.execute(sql`delete from webhook_endpoints`);
  }

  /** A new endpoint here that hears of `types`, with its secret. */
  hook(types: readonly JobEvent[] = ALL_JOB_EVENTS, path = '/hook') {
    return this.webhooks.create({ name: 'ci', url: this.origin + path, event_types: [...types] });
  }

  /** The event of a call, by default the first, as the SDK reads it. Rejects when `secret` did not sign it. */
  unwrap(secret: string, { body, headers } = this.received[0]!) {
    return this.webhooks.unwrap(body, headers as never, secret);
  }

  async outbox(): Promise<Record<string, unknown>[]> {
    const { rows } = await this.t.database.db.execute<Record<string, unknown>>(
      sql`select *, next_attempt_at - clock_timestamp() > interval '1 second' as waits from webhook_deliveries order by created_at`,
    );
    return rows;
  }

  async endpointRow(id: string): Promise<Record<string, unknown>> {
    const { rows } = await this.t.database.db.execute(sql`select * from webhook_endpoints where id = ${id}`);
    return rows[0]!;
  }

  async cancelledJob(): Promise<string> {
    const id = await addJob(this.t, this.t.alice);
    await requestCancel(this.t.database, this.t.alice.projectId, id);
    return id;
  }
}

/** For a test file: registers the hooks; every test begins without endpoints and deliveries. */
export function useReceiver(overrides: Partial<Config> = {}): { t: TestApp; receiver: Receiver } {
  const t = useApp({ webhookPrivateAddresses: true, webhookPollMilliseconds: 20, ...overrides });
  const receiver = new Receiver(t);
  beforeAll(() => receiver.start());
  afterAll(() => receiver.stop());
  beforeEach(() => receiver.reset());
  return { t, receiver };
}
