/**
 * `lathe up`: everything on one machine. Postgres (unless DATABASE_URL names one), the first project and key, the base
 * models, then API, inference and trainer as child processes, each started again when it dies; one signal stops them
 * all, in order: no new requests, work saved, database last.
 */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { type Config, childEnvironment, EXIT_CONFIG } from '../config.ts';
import { openDatabase } from '../db/client.ts';
import { migrate } from '../db/migrate.ts';
import type { BaseModelDescription } from '../domain/base-models/describe.ts';
import { registerBaseModels } from '../domain/base-models/register.ts';
import { createFirstKey } from '../domain/keys/create.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../embedded/postgres.ts';
import { type Child, type ChildSpec, lastWords, superviseChild } from './child.ts';
import { type HomeLock, lockHome } from './home-lock.ts';

type Say = (line: string) => void;

/** Time for a trainer to save and hand over, on top of the API's drain. */
const WORKER_GRACE_MS = 20_000;
/** Signals of one Ctrl-C may come twice (terminal and npm); a later one means: at once. */
const SECOND_SIGNAL_MS = 1_000;

/** Runs until a signal comes; returns the exit code. Throws HomeInUse, BaseModelError or what Postgres says. */
export async function up(config: Config, say: Say): Promise<number> {
  const lock = lockHome(config.home, 'lathe up');
  const stop = stopSignal();
  try {
    const postgres = config.databaseUrl === null ? await startEmbeddedPostgres({ home: config.home }) : null;
    try {
      if (postgres?.note) say(postgres.note);
      const databaseUrl = config.databaseUrl ?? postgres!.url;
      await migrate(databaseUrl);
      const models = await prepare({ ...config, databaseUrl }, say);
      if (stop.asked) return 0;
      return await runChildren(
        { ...config, databaseUrl, baseModels: models },
        models,
        postgres,
        lock,
        stop,
        say,
      );
    } finally {
      await postgres?.stop();
    }
  } finally {
    lock.release();
    stop.forget();
  }
}

/** The rows a first start needs. A key is printed here, once, when none works yet, and kept nowhere. */
async function prepare(config: Config & { databaseUrl: string }, say: Say): Promise<BaseModelDescription[]> {
  const database = openDatabase(config.databaseUrl, { connections: 2, name: 'lathe up' });
  try {
    const key = await createFirstKey(database);
    if (key) {
      say(`API key: ${key}`);
      say(
        'It is shown this once and stored only as a hash; `npm run lathe -- keys create NAME` makes another.',
      );
    }
    return await registerBaseModels(config, database, (reason) => say(`Left out: ${reason}`));
  } finally {
    await database.close();
  }
}

async function runChildren(
  config: Config,
  models: BaseModelDescription[],
  postgres: EmbeddedPostgres | null,
  lock: HomeLock,
  stop: StopSignal,
  say: Say,
): Promise<number> {
  const logs = path.join(config.home, 'logs');
  mkdirSync(logs, { recursive: true, mode: 0o700 });
  let exitCode = 0;
  let port = config.port;
  const end = (code: number) => {
    exitCode = code;
    stop.ask();
  };
  const childOf = (
    name: string,
    command: ChildSpec['command'],
    changes: Record<string, string>,
    rest: Partial<ChildSpec> = {},
  ) => {
    const logFile = path.join(logs, `${name}.log`);
    return superviseChild({
      name,
      command,
      logFile,
      env: () => childEnvironment({ ...config, port }, changes),
      onDeath: (how, pause) => {
        const next =
          pause === null ? 'It will not be started again' : `Starting it again in ${pause / 1000} s`;
        say(`${name} ${how}. ${next}. Log: ${logFile}\n  ${lastWords(logFile)}`);
      },
      ...rest,
    });
  };

  const api = childOf(
    'api',
    ['src/cli.ts', 'api'],
    {},
    {
      onMessage: (message) => {
        const url = (message as { listening?: string }).listening;
        if (!url) return;
        port = Number(new URL(url).port); // a restart must come back where clients look for it
        lock.announce(url);
        say(banner(url, config, models, logs));
      },
      onDeath: (how, pause) => {
        const logFile = path.join(logs, 'api.log');
        say(`api ${how}. Log: ${logFile}\n  ${lastWords(logFile)}`);
        if (pause === null) end(EXIT_CONFIG);
      },
    },
  );
  const workers: Child[] = models.map(({ id }) => {
    const name = models.length === 1 ? 'inference' : `inference-${id.replaceAll('/', '--')}`;
    return childOf(name, ['workers/inference/main.ts'], { LATHE_INFERENCE_MODEL: id });
  });
  workers.push(childOf('trainer', ['workers/trainer/main.ts'], {}));

  void postgres?.ended.then(() => {
    if (stop.asked) return;
    say(`Postgres ended by itself. Log: ${postgres.logFile}`);
    end(1);
  });
  await stop.first;
  say('Stopping…');
  void stop.second.then(() => {
    say('Stopping at once.');
    for (const child of [api, ...workers]) child.kill();
  });
  await api.stop(config.drainSeconds * 1000 + 2_000);
  await Promise.all(workers.map((child) => child.stop(WORKER_GRACE_MS)));
  return exitCode;
}

function banner(url: string, config: Config, models: BaseModelDescription[], logs: string): string {
  return [
    `Lathe listens on ${url}/v1`,
    `  base models  ${models.map((model) => model.id).join(', ')}`,
    `  reference    ${url}/docs`,
    `  state, logs  ${config.home}, ${logs}`,
  ].join('\n');
}

interface StopSignal {
  readonly asked: boolean;
  readonly first: Promise<void>;
  /** Somebody insisted. */
  readonly second: Promise<void>;
  ask(): void;
  forget(): void;
}

/** From here on SIGINT, SIGTERM and SIGHUP ask instead of killing. */
function stopSignal(): StopSignal {
  const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let askedAt: number | null = null;
  const ask = () => {
    if (askedAt === null) {
      askedAt = performance.now();
      first.resolve();
    } else if (performance.now() - askedAt > SECOND_SIGNAL_MS) second.resolve();
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, ask);
  return {
    get asked() {
      return askedAt !== null;
    },
    first: first.promise,
    second: second.promise,
    ask,
    forget: () => {
      for (const signal of signals) process.off(signal, ask);
    },
  };
}
