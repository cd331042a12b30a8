/**
 * `lathe up` as a person meets it: the first start and its key, a second one beside it, children that die, Ctrl-C,
 * kill -9, and wrong settings. The model is tiny and random; everything else is real.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { runningPostgresUrl } from '../../src/embedded/postgres.ts';
import { isAlive, waitForExit } from '../../src/embedded/processes.ts';
import {
  killServices,
  lathe,
  makeHome,
  makeRandomModel,
  ROOT,
  type RunningService,
  removeHome,
  spawnLathe,
  startService,
} from '../helpers/service.ts';

const home = makeHome();
const model = { LATHE_BASE_MODELS: `tiny=${path.join(home, 'tiny')}` };
let service: RunningService;
let key: string;

vi.setConfig({ testTimeout: 90_000 }); // several processes start in each of these, beside whatever else runs

beforeAll(() => makeRandomModel(path.join(home, 'tiny')));
afterAll(async () => {
  killServices();
  await vi.waitUntil(() => runningPostgresUrl(home) === null, { timeout: 30_000 });
  removeHome(home);
});

/** Pids of the processes `up` started, by program. */
function childrenOf(parent: number): Record<string, number> {
  const found: Record<string, number> = {};
  const list = spawnSync('ps', ['-eo', 'pid=,ppid=,args='], { encoding: 'utf8' }).stdout;
  for (const line of list.split('\n')) {
    const [, pid, ppid, args] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? [];
    if (Number(ppid) !== parent || !args) continue;
    const name = /src\/cli\.ts (api)|workers\/(inference|trainer)\/main\.ts|(postgres) -D/.exec(args);
    if (name) found[name[1] ?? name[2] ?? name[3]!] = Number(pid);
  }
  return found;
}

const get = (at: string, withKey = key) =>
  fetch(`${service.url}${at}`, { headers: { authorization: `Bearer ${withKey}` } });

const ready = async () => {
  const { workers } = (await (await get('/readyz')).json()) as {
    workers: { trainer: number; inference: number };
  };
  return Math.min(workers.trainer, workers.inference);
};

describe('lathe up', () => {
  it('prints a key once, lists the model, and becomes ready', async () => {
    service = await startService(home, model);
    await expect.poll(service.output).toContain('Lathe listens on');
    key = /^API key: (sk-lathe-\S+)$/m.exec(service.output())![1]!;
    expect((await get('/v1/models')).status).toBe(200);
    expect(await (await get('/v1/models')).json()).toMatchObject({ data: [{ id: 'tiny' }] });
    expect((await get('/v1/models', `${key}x`)).status).toBe(401);
    await expect.poll(ready, { timeout: 60_000 }).toBe(1);
    for (const name of readdirSync(path.join(home, 'logs'))) {
      expect(readFileSync(path.join(home, 'logs', name), 'utf8')).not.toContain(key);
    }
  });

  it('tells a second one who runs, and serves the other commands meanwhile', async () => {
    const second = await lathe(home, ['up'], model);
    expect(second.status).toBe(1);
    expect(second.stderr).toContain(`pid ${service.process.pid}`);
    expect(second.stderr).toContain(service.url);

    const other = (await lathe(home, ['keys', 'create', 'laptop', '--days', '1'])).stdout.trim();
    expect((await get('/v1/models', other)).status).toBe(200);
    expect((await lathe(home, ['keys', 'list'])).stdout).toMatch(/live +\S+ +\S+ +laptop/);
    expect((await lathe(home, ['keys', 'revoke', other])).status).toBe(0);
    expect((await lathe(home, ['keys', 'revoke', other])).status).toBe(1);
    await expect.poll(async () => (await get('/v1/models', other)).status, { timeout: 10_000 }).toBe(401);
    expect((await lathe(home, ['models', 'list'], model)).stdout).toMatch(/^tiny +qwen3 +\d+ +2048/m);
    expect((await lathe(home, ['migrate'])).stdout).toContain('newest schema');
  });

  it('lets a trainer and an API run on their own beside it, as on other machines', async () => {
    expect(await lathe(home, ['trainer', '--once'], model)).toMatchObject({ status: 0 });
    expect(await lathe(home, ['api'], model)).toMatchObject({
      status: 78,
      stderr: expect.stringContaining('LATHE_WORKER_TOKEN'),
    });
    const token = { LATHE_WORKER_TOKEN: '0123456789abcdef' };
    const api = spawnLathe(home, ['api'], { ...model, ...token });
    await expect.poll(api.output, { timeout: 30_000 }).toContain('"msg":"listening"');
    const url = /"url":"([^"]+)"/.exec(api.output())![1];
    expect((await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status).toBe(
      200,
    );
    expect(await api.stop('SIGTERM')).toBe(0);
  });

  it('starts a killed child again, the API at the same address', async () => {
    const before = childrenOf(service.process.pid!);
    expect(Object.keys(before).sort()).toEqual(['api', 'inference', 'postgres', 'trainer']);
    process.kill(before.api!, 'SIGKILL');
    process.kill(before.trainer!, 'SIGKILL');
    await expect
      .poll(
        () =>
          fetch(`${service.url}/healthz`).then(
            (r) => r.status,
            () => 0,
          ),
        { timeout: 30_000 },
      )
      .toBe(200);
    await expect.poll(() => childrenOf(service.process.pid!).trainer, { timeout: 30_000 }).toBeGreaterThan(0);
    const after = childrenOf(service.process.pid!);
    expect(after.api).not.toBe(before.api);
    expect(after.inference).toBe(before.inference);
    expect(service.output()).toContain('trainer was killed by SIGKILL. Starting it again in 0.5 s');
  });

  it('starts a killed Postgres again, at its old address', async () => {
    const { postgres } = childrenOf(service.process.pid!);
    const url = runningPostgresUrl(home);
    process.kill(postgres!, 'SIGKILL');
    await expect
      .poll(() => childrenOf(service.process.pid!).postgres, { timeout: 30_000 })
      .not.toBe(postgres);
    await expect.poll(() => runningPostgresUrl(home), { timeout: 30_000 }).toBe(url);
    const models = async () => (await get('/v1/models')).status;
    await expect.poll(models, { timeout: 30_000 }).toBe(200);
  });

  it('stops everything on one signal and starts again without a new key', async () => {
    const pids = Object.values(childrenOf(service.process.pid!));
    expect(await service.stop('SIGINT')).toBe(0);
    expect(pids.filter(isAlive)).toEqual([]);
    service = await startService(home, model);
    expect(service.output()).not.toContain('API key');
    expect((await get('/v1/models')).status).toBe(200);
  });

  it('leaves nothing behind when it is killed, and comes back', async () => {
    const pids = Object.values(childrenOf(service.process.pid!));
    await service.stop('SIGKILL');
    for (const pid of pids) expect(await waitForExit(pid, 10_000), `pid ${pid}`).toBe(true);
    service = await startService(home, model);
    expect((await get('/v1/models')).status).toBe(200);
    expect(await service.stop()).toBe(0);
    expect(runningPostgresUrl(home)).toBeNull();
  });

  it('starts the database for a command when nothing runs', async () => {
    expect((await lathe(home, ['keys', 'list'])).stdout).toMatch(/live .* default/);
    expect(runningPostgresUrl(home)).toBeNull();
  });
});

describe('wrong use', () => {
  it('explains itself', async () => {
    expect(await lathe(home, ['--help'])).toMatchObject({
      status: 0,
      stdout: expect.stringContaining('Usage: lathe COMMAND'),
    });
    expect(await lathe(home, [])).toMatchObject({ status: 2 });
    const usage: [string[], string][] = [
      [['dance'], "There is no command 'dance'"],
      [['keys', 'create'], 'Expected 1 argument(s), but got 0'],
      [['keys', 'create', 'a', '--days', 'x'], '--days x is not a number of days'],
      [['up', '--fast'], "Unknown option '--fast'"],
    ];
    for (const [args, message] of usage) {
      const { status, stderr } = await lathe(home, args);
      expect({ status, stderr: stderr.slice(0, 200) }).toMatchObject({
        status: 2,
        stderr: expect.stringContaining(message),
      });
    }
  });

  it('names the setting that is wrong and stops with code 78', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const port = String((taken.address() as AddressInfo).port);
    const wrong: [string[], Record<string, string>, string][] = [
      [['up'], { PORT: 'eighty' }, 'PORT=eighty is not valid: expected a whole number from 0 to 65535'],
      [['up'], { LATHE_BASE_MODELS: '/nowhere/m' }, '/nowhere/m/config.json'],
      [['up'], { ...model, PORT: port }, 'EADDRINUSE'],
      [
        ['up'],
        {
          LATHE_BASE_MODELS: `${model.LATHE_BASE_MODELS},twin=${path.join(home, 'tiny')}`,
          LATHE_INFERENCE_PORT: '7001',
        },
        'LATHE_INFERENCE_PORT is set, but there are 2 base models',
      ],
      [['trainer'], {}, 'There is no database: set DATABASE_URL'],
    ];
    for (const [args, env, message] of wrong) {
      const { status, stdout, stderr } = await lathe(home, args, env);
      expect({ args, status, said: stdout + stderr }).toMatchObject({
        status: 78,
        said: expect.stringContaining(message),
      });
    }
    taken.close();
  });

  it('has a wrapper that works from any folder', () => {
    const wrapper = spawnSync(path.join(ROOT, 'bin', 'lathe'), ['--help'], { cwd: '/', encoding: 'utf8' });
    expect(wrapper).toMatchObject({ status: 0, stdout: expect.stringContaining('Usage: lathe COMMAND') });
  });
});
