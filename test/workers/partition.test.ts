/** The database goes away while a job trains: briefly, it does not matter; for longer than the lease, the worker lets go. */
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, it, vi } from 'vitest';
import { type JobRequest, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

/** A TCP relay that can refuse, or swallow everything without a word (a half-open connection). */
class Relay {
  mode: 'pass' | 'refuse' | 'swallow' = 'pass';
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((client) => this.#relay(client));
  readonly #target: { host: string; port: number };

  constructor(target: { host: string; port: number }) {
    this.#target = target;
  }

  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return (this.#server.address() as { port: number }).port;
  }

  cut(mode: 'refuse' | 'swallow'): void {
    this.mode = mode;
    if (mode === 'refuse') for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.cut('refuse');
    this.#server.close();
  }

  #relay(client: Socket): void {
    if (this.mode === 'refuse') {
      client.destroy();
      return;
    }
    const upstream = connect(this.#target);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      this.#sockets.add(from);
      from.on('data', (bytes) => this.mode === 'pass' && to.write(bytes));
      from.on('error', () => {}); // the other side sees the close
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
  }
}

const service = useTestService();
const relays: Relay[] = [];
afterAll(async () => {
  for (const relay of relays) relay.close();
});

/** A trainer process that reaches the database through a relay. */
async function startBehindRelay(env: Record<string, string> = {}) {
  const url = new URL(service.database.url);
  const relay = new Relay({ host: url.hostname, port: Number(url.port) });
  relays.push(relay);
  url.host = `127.0.0.1:${await relay.listen()}`;
  return { relay, trainer: service.startTrainer([], { DATABASE_URL: url.href, ...env }) };
}

const REQUEST: JobRequest = {
  training: chatLines(50),
  hyperparameters: { n_epochs: 50, batch_size: 2 },
  trainer: { max_steps: 200, save_steps: 40, logging_steps: 5, max_length: 64 },
};

it('refused for a second: training goes on, nothing is lost and nothing told twice', async () => {
  const id = await service.createJob(REQUEST);
  const { relay, trainer } = await startBehindRelay({ LATHE_LEASE_SECONDS: '12' });
  await service.waitFor(id, ({ row }) => (row.progress?.step ?? 0) >= 10);
  relay.cut('refuse');
  await sleep(1000);
  relay.mode = 'pass';
  const view = await service.waitFor(id, ({ row }) => row.finishedAt !== null);
  trainer.child.kill('SIGTERM');
  expect(await trainer.exited).toMatchObject({ code: 0 });
  expect(view.row).toMatchObject({ status: 'succeeded', attempts: 1, epoch: 1, crashes: 0 });
  expect(view.events.map((event) => event.seq)).toEqual(view.events.map((_, i) => i + 1));
  const steps = view.events
    .filter((event) => event.type === 'metrics')
    .map((event) => (event.data as { step: number }).step);
  expect(steps).toEqual(Array.from({ length: 40 }, (_, i) => 5 * (i + 1)));
});

it('silent for longer than the lease: the worker stops its child before another may claim, which ends the job', async () => {
  const id = await service.createJob({
    ...REQUEST,
    trainer: { ...REQUEST.trainer, max_steps: 100_000, save_steps: 100 },
  });
  const { relay, trainer } = await startBehindRelay();
  const pid = (await trainer.logged('child started')).child_pid as number;
  const before = await service.waitForView(id, (view) => view.checkpoints.length > 0);
  expect(before.row.epoch).toBe(1);
  relay.cut('swallow');
  expect(await trainer.logged('attempt ended')).toMatchObject({ outcome: 'lost' });
  expect(() => process.kill(pid, 0)).toThrow('ESRCH');
  // The lease may still be alive by the database's clock: nobody else could have trained at the same time.
  const { row } = await service.view(id);
  expect(row).toMatchObject({ epoch: 1, status: 'running' });
  expect(row.leaseUntil!.getTime()).toBeGreaterThan(Date.now() - 500);
  trainer.child.kill('SIGKILL');

  const second = service.startTrainer();
  const after = await service.waitFor(
    id,
    (view) => view.row.epoch > 1 && (view.row.progress?.step ?? 0) > (row.progress?.step ?? 0),
  );
  second.child.kill('SIGTERM');
  await second.exited;
  expect(after.events.map((event) => event.message)).toContainEqual(
    expect.stringMatching(/^Continuing from the checkpoint of step \d+$/),
  );
  expect(after.events.map((event) => event.seq)).toEqual(after.events.map((_, i) => i + 1));
});
