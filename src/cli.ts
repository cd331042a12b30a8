/**
 * The `lathe` command: reads the arguments, runs one command, and turns what went wrong into a sentence and an exit
 * code (2 wrong usage, 78 wrong setting, 1 anything else).
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { reachableDatabaseUrl, withDatabase } from './commands/database.ts';
import { HomeInUse } from './commands/home-lock.ts';
import { createKeyCommand, listKeysCommand, revokeKeyCommand, table } from './commands/keys.ts';
import { PullError, pullModel } from './commands/pull.ts';
import { up } from './commands/up.ts';
import {
  type Config,
  ConfigError,
  childEnvironment,
  EXIT_CONFIG,
  loadConfig,
  PROJECT_ROOT,
} from './config.ts';
import { openDatabase } from './db/client.ts';
import { BaseModelError, describeBaseModel } from './domain/base-models/describe.ts';
import { registerBaseModels } from './domain/base-models/register.ts';
import { listBaseModels, upsertBaseModel } from './domain/base-models/repository.ts';
import { createLog } from './log.ts';

const HELP = `Usage: lathe COMMAND

  up                        run everything on this machine
  api                       run the API alone
  trainer [--once]          run a trainer alone; --once ends when the queue is empty
  inference                 run an inference worker alone
  migrate                   bring the database to the newest schema
  keys create NAME [--days N]   print a new API key, once
  keys list                 list the keys
  keys revoke ID            revoke a key
  models pull OWNER/NAME [--revision R]   fetch a base model from the Hugging Face hub
  models list               list the base models

Settings are environment variables (PORT, HOST, LATHE_HOME, DATABASE_URL, …); src/config.ts names them all.`;

class UsageError extends Error {
  override name = 'UsageError';
}

const print = (text: string) => process.stdout.write(`${text}\n`);
const say = (text: string) => process.stderr.write(`${text}\n`);

type Command = (args: string[]) => Promise<number>;

const COMMANDS: Record<string, Command> = {
  up: async (args) => {
    parse(args, 0);
    return up(loadConfig(), print);
  },
  api: async (args) => {
    parse(args, 0);
    return runApi(standalone(loadConfig()));
  },
  trainer: async (args) => {
    const { values } = parse(args, 0, { once: { type: 'boolean' } });
    return becomeWorker('workers/trainer/main.ts', values.once ? { LATHE_TRAINER_ONCE: 'true' } : {});
  },
  inference: async (args) => {
    parse(args, 0);
    return becomeWorker('workers/inference/main.ts', {});
  },
  migrate: async (args) => {
    parse(args, 0);
    await withDatabase(loadConfig(), 'lathe migrate', async () => {}); // opening it migrates
    print('The database has the newest schema.');
    return 0;
  },
  'keys create': async (args) => {
    const { positionals, values } = parse(args, 1, { days: { type: 'string' } });
    const days = values.days === undefined ? null : Number(values.days);
    if (days !== null && !(days > 0)) throw new UsageError(`--days ${values.days} is not a number of days.`);
    print(
      await withDatabase(loadConfig(), 'lathe keys', (db) => createKeyCommand(db, positionals[0]!, days)),
    );
    return 0;
  },
  'keys list': async (args) => {
    parse(args, 0);
    print(await withDatabase(loadConfig(), 'lathe keys', listKeysCommand));
    return 0;
  },
  'keys revoke': async (args) => {
    const [id] = parse(args, 1).positionals;
    const revoked = await withDatabase(loadConfig(), 'lathe keys', (db) => revokeKeyCommand(db, id!));
    say(revoked ? 'Revoked; refused everywhere within 5 seconds.' : `There is no live key ${id}.`);
    return revoked ? 0 : 1;
  },
  'models pull': async (args) => {
    const { positionals, values } = parse(args, 1, { revision: { type: 'string', default: 'main' } });
    const config = loadConfig();
    const source = await pullModel(config, positionals[0]!, String(values.revision), say);
    const model = await describeBaseModel(source);
    await withDatabase(config, 'lathe models', (database) => upsertBaseModel(database.db, model));
    print(`${model.id} is in ${model.location}. A running service serves it after a restart.`);
    return 0;
  },
  'models list': async (args) => {
    parse(args, 0);
    const models = await withDatabase(loadConfig(), 'lathe models', (database) =>
      listBaseModels(database.db),
    );
    const rows = models.map((m) => [m.id, m.family, `${m.parameterCount}`, `${m.contextLength}`, m.location]);
    print(table([['MODEL', 'FAMILY', 'PARAMETERS', 'CONTEXT', 'FOLDER'], ...rows]));
    return 0;
  },
};

type Options = NonNullable<Parameters<typeof parseArgs>[0]>['options'];

function parse(args: string[], positionals: number, options: Options = {}) {
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args, options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (parsed.positionals.length !== positionals) {
    throw new UsageError(`Expected ${positionals} argument(s), but got ${parsed.positionals.length}.`);
  }
  return parsed;
}

/** The configuration of a process that runs without `up`: it needs a database, and a token that others know too. */
function standalone(config: Config): Config & { databaseUrl: string } {
  const databaseUrl = reachableDatabaseUrl(config);
  if (databaseUrl === null) {
    throw new ConfigError('There is no database: set DATABASE_URL, or start everything with `lathe up`.');
  }
  return { ...config, databaseUrl };
}

async function runApi(config: Config): Promise<number> {
  if (!config.workerTokenShared) {
    throw new ConfigError('LATHE_WORKER_TOKEN is not set: the API and its inference workers must share one.');
  }
  const { startServer } = await import('./server.ts'); // the other commands start faster without the HTTP stack
  const log = createLog({ level: config.logLevel, name: 'api' });
  const server = await startServer(config, log);
  log.info({ url: server.url }, 'listening');
  process.send?.({ listening: server.url });
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  log.info('draining');
  await server.close();
  return 0;
}

/** Registers this machine's base models, then turns this process into the worker's. */
async function becomeWorker(program: string, changes: Record<string, string>): Promise<number> {
  const config = standalone(loadConfig());
  if (program.includes('inference') && !config.workerTokenShared) {
    throw new ConfigError('LATHE_WORKER_TOKEN is not set: the API and its inference workers must share one.');
  }
  const database = openDatabase(config.databaseUrl, { connections: 1, name: 'lathe cli' });
  try {
    const baseModels = await registerBaseModels(config, database, (reason) => say(`Left out: ${reason}`));
    const env = childEnvironment({ ...config, baseModels }, changes);
    process.execve!(process.execPath, [process.execPath, path.join(PROJECT_ROOT, program)], env);
  } finally {
    await database.close();
  }
  return 1; // execve does not come back
}

async function main(args: string[]): Promise<number> {
  const [first = '', second = ''] = args;
  if (first === '' || first === 'help' || args.includes('--help') || args.includes('-h')) {
    (first === '' ? say : print)(HELP);
    return first === '' ? 2 : 0;
  }
  const two = COMMANDS[`${first} ${second}`];
  const command = two ?? COMMANDS[first];
  if (!command) throw new UsageError(`There is no command '${args.join(' ')}'.`);
  return command(args.slice(two ? 2 : 1));
}

function explain(error: unknown): number {
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof UsageError) {
    say(`${message}\n\n${HELP}`);
    return 2;
  }
  if (error instanceof ConfigError || error instanceof BaseModelError) {
    say(message);
    return EXIT_CONFIG;
  }
  if (code === 'EADDRINUSE' || code === 'EACCES') {
    say(`Cannot listen: ${message}. Set PORT (0 takes any free one) or HOST.`);
    return EXIT_CONFIG;
  }
  say(
    error instanceof PullError || error instanceof HomeInUse
      ? message
      : String((error as Error).stack ?? error),
  );
  return 1;
}

process.exitCode = await main(process.argv.slice(2)).catch(explain);
// Open pools or timers of a failed start must not keep the process; everything that matters was awaited.
process.exit();
