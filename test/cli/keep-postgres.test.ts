/** How `lathe up` keeps its Postgres: started again when it dies, and stopped even while it is being started again. */
import { expect, it } from 'vitest';
import { keepPostgres } from '../../src/commands/up.ts';
import type { EmbeddedPostgres } from '../../src/embedded/postgres.ts';

/** Servers that run until they are stopped or die; each start waits for `gate`. */
function servers() {
  const started: { die: () => void; alive: boolean }[] = [];
  const world = {
    started,
    gate: Promise.resolve(),
    asked: 0,
    said: [] as string[],
    start: async (): Promise<EmbeddedPostgres> => {
      await world.gate;
      const { promise, resolve } = Promise.withResolvers<void>();
      const server = {
        alive: true,
        die: () => {
          server.alive = false;
          resolve();
        },
      };
      started.push(server);
      const rest = { pid: started.length, adopted: false, logFile: 'log', note: null };
      return { ...rest, url: 'postgres://same', ended: promise, stop: async () => server.die() };
    },
  };
  const keep = () =>
    keepPostgres('/home', (line) => world.said.push(line), { ask: () => world.asked++ }, world.start);
  return { world, keep };
}

it('starts it again, and stops the one that runs', async () => {
  const { world, keep } = servers();
  const kept = await keep();
  world.started[0]!.die();
  await expect.poll(() => world.started.length).toBe(2);
  await kept.stop();
  expect(world.started.map(({ alive }) => alive)).toEqual([false, false]);
  expect({ lost: kept.lost(), asked: world.asked }).toEqual({ lost: false, asked: 0 });
});

it('can be stopped while it is being started again', async () => {
  const { world, keep } = servers();
  const kept = await keep();
  const gate = Promise.withResolvers<void>();
  world.gate = gate.promise;
  world.started[0]!.die();
  await new Promise((resolve) => setTimeout(resolve, 700)); // past the pause: the start waits at the gate
  const stopped = kept.stop();
  gate.resolve();
  await stopped;
  expect(world.started.map(({ alive }) => alive)).toEqual([false, false]);
});

it('asks everything to stop when it cannot be started again', async () => {
  const { world, keep } = servers();
  const kept = await keep();
  world.gate = Promise.reject(new Error('no room'));
  world.gate.catch(() => {});
  world.started[0]!.die();
  await expect.poll(() => world.asked).toBe(1);
  expect(world.said.at(-1)).toContain('no room');
  await kept.stop();
  expect(kept.lost()).toBe(true);
});
