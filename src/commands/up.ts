/**
 * `lathe up`: everything on one machine. Postgres (unless DATABASE_URL names one), the first project and key, the base
 * models, then API, inference and trainer as child processes, each started again when it dies; one signal stops them
 * all, in order: no new requests, work saved, database last.
 */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BaseModelSource, type Config, ConfigError, childEnvironment, EXIT_CONFIG } from '../config.ts';
import { openDatabase } from '../db/client.ts';
import { migrate } from '../db/migrate.ts';
import { registerBaseModels } from '../domain/base-models/register.ts';
import { createFirstKey } from '../domain/keys/create.ts';
import { startEmbeddedPostgres } from '../embedded/postgres.ts';
import { type ChildSpec, LOG_CHECK_MS, superviseChild } from './child.ts';
import { type HomeLock, lockHome } from './home-lock.ts';
import { lastWords, trimLogFile } from './log-file.ts';
import { type StopSignal, stopSignal } from './stop-signal.ts';

type Say = (line: string) => void;
type UpConfig = Config & { databaseUrl: string; baseModels: readonly BaseModelSource[] };

/** Time for a worker to save and hand over, on top of the drain. */
const WORKER_GRACE_MS = 20_000;
const POSTGRES_PAUSE_MS = 500;

/** Runs until a signal comes; returns the exit code. Throws HomeInUse, ConfigError, BaseModelError or what Postgres says. */
export async function up(config: Config, say: Say): Promise<number> {
  const lock = lockHome(config.home, 'lathe up');
  const stop = stopSignal();
  try {
    const postgres = config.databaseUrl === null ? await keepPostgres(config.home, say, stop) : null;
    try {
      if (postgres?.note) say(postgres.note);
      const databaseUrl = config.databaseUrl ?? postgres!.url;
      await migrate(databaseUrl);
      const models = await prepare({ ...config, databaseUrl }, say);
      const exitCode = stop.asked
        ? 0
        : await runChildren({ ...config, databaseUrl, baseModels: models }, lock, stop, say);
      return postgres?.lost() ? 1 : exitCode;
    } finally {
      await postgres?.stop();
    }
  } finally {
    lock.release();
    stop.forget();
  }
}

interface KeptPostgres {
  url: string;
  note: string | null;
  /** True when it died and did not come back. */
  lost(): boolean;
  stop(): Promise<void>;
}

/** The embedded Postgres, started again when it dies. If it cannot be, or not at its old address, all must stop. */
export async function keepPostgres(
  home: string,
  say: Say,
  stop: Pick<StopSignal, 'ask'>,
  start = startEmbeddedPostgres,
): Promise<KeptPostgres> {
  let current = await start({ home });
  const { url, note } = current;
  let [stopping, lost] = [false, false];
  const trimming = setInterval(() => {
    try {
      trimLogFile(current.logFile);
    } catch (error) {
      say(`The log of Postgres cannot be trimmed: ${(error as Error).message}`);
    }
  }, LOG_CHECK_MS).unref();
  const watch = async () => {
    for (;;) {
      await current.ended;
      if (stopping) return;
      say(`Postgres ended by itself. Starting it again. Log: ${current.logFile}`);
      await sleep(POSTGRES_PAUSE_MS);
      if (stopping) return;
      current = await start({ home });
      if (stopping) return; // nobody waits for its end: stop() ends it
      if (current.url !== url) throw new Error('its port is taken by another program now');
    }
  };
  const watching = watch().catch((error: Error) => {
    say(`Postgres is gone for good: ${error.message}`);
    lost = true;
    stop.ask();
  });
  return {
    url,
    note,
    lost: () => lost,
    stop: async () => {
      stopping = true;
      clearInterval(trimming);
      await current.stop();
      await watching; // a restart under way ends first, and its server is stopped too
      await current.stop();
    },
  };
}

/** The rows a first start needs. A key is printed here, once, when none works yet, and kept nowhere. */
async function prepare(config: Config & { databaseUrl: string }, say: Say): Promise<BaseModelSource[]> {
  const database = openDatabase(config.databaseUrl, { connections: 2, name: 'lathe up' });
  try {
    const key = await createFirstKey(database);
    if (key) {
      say(`API key: ${key}`);
      say(
        'It is shown this once and stored only as a hash; `npm run lathe -- keys create NAME` makes another, with ' +
          '`--admin` one for the admin API.',
      );
    }
    return await registerBaseModels(config, database, (reason) => say(`Left out: ${reason}`));
  } finally {
    await database.close();
  }
}

/** Starts API, inference and trainer, waits for the signal, and stops them; the exit code. */
async function runChildren(config: UpConfig, lock: HomeLock, stop: StopSignal, say: Say): Promise<number> {
  const logs = path.join(config.home, 'logs');
  mkdirSync(logs, { recursive: true, mode: 0o700 });
  let [exitCode, port] = [0, config.port];
  checkInferenceAddress(config);
  const child = (
    name: string,
    command: ChildSpec['command'],
    changes: Record<string, string>,
    more: Partial<ChildSpec> = {},
  ) => {
    const logFile = path.join(logs, `${name}.log`);
    return superviseChild({
      name,
      command,
      logFile,
      env: () => childEnvironment({ ...config, port }, changes),
      onDeath: (how, pause) => {
        const next = pause === null ? 'It is not started again' : `Starting it again in ${pause / 1000} s`;
        say(`${name} ${how}. ${next}. Log: ${logFile}\n  ${lastWords(logFile)}`);
        if (name !== 'api' || pause !== null) return;
        exitCode = EXIT_CONFIG; // without the API there is nothing to run
        stop.ask();
      },
      onTrouble: (what) => say(`${name}: ${what}.`),
      ...more,
    });
  };

  const onMessage = (message: unknown) => {
    const url = (message as { listening?: string }).listening;
    if (!url) return;
    port = Number(new URL(url).port); // a restart must come back where clients look for it
    try {
      lock.announce(url);
    } catch (error) {
      say(`Other commands cannot be told of this address: ${(error as Error).message}`); // a full disk, say
    }
    say(banner(url, config, logs));
  };
  const api = child('api', ['src/cli.ts', 'api'], {}, { onMessage });
  const workers = config.baseModels.map(({ id }, _, all) => {
    const name = all.length === 1 ? 'inference' : `inference-${id.replaceAll('/', '--')}`;
    return child(name, ['workers/inference/main.ts'], { LATHE_INFERENCE_MODEL: id });
  });
  workers.push(child('trainer', ['workers/trainer/main.ts'], {}));

  await stop.first;
  say('Stopping…');
  void stop.second.then(() => {
    say('Stopping at once.');
    for (const each of [api, ...workers]) each.kill();
  });
  await api.stop(config.drainSeconds * 1000 + 2_000);
  await Promise.all(workers.map((worker) => worker.stop(config.drainSeconds * 1000 + WORKER_GRACE_MS)));
  return exitCode;
}

/** Each base model has an inference worker of its own, and they cannot share one fixed address. */
function checkInferenceAddress({ baseModels, inferencePort, inferenceUrl }: UpConfig): void {
  if (baseModels.length <= 1 || (inferencePort === 0 && inferenceUrl === null)) return;
  const fixed = inferencePort === 0 ? 'LATHE_INFERENCE_URL' : 'LATHE_INFERENCE_PORT';
  throw new ConfigError(
    `${fixed} is set, but there are ${baseModels.length} base models and each has an inference worker of its own: ` +
      `unset it, or name one model in LATHE_BASE_MODELS.`,
  );
}

function banner(url: string, config: UpConfig, logs: string): string {
  return [
    `Lathe listens on ${url}/v1`,
    `  base models  ${config.baseModels.map((model) => model.id).join(', ')}`,
    `  reference    ${url}/docs`,
    `  state, logs  ${config.home}, ${logs}`,
  ].join('\n');
}
