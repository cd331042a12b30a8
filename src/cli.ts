/**
 * The `lathe` command: reads the arguments, runs one command, and turns what went wrong into a sentence and an exit
 * code (2 wrong usage, 78 wrong setting, 1 anything else).
 */
import { parseArgs } from 'node:util';
import type { Database } from './db/client.ts';

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

// Each command loads what it needs when it runs: `keys list` must not wait for the HTTP stack.
const loadConfig = async () => (await import('./config.ts')).loadConfig();
const inDatabase = async <T>(work: (database: Database) => Promise<T>) =>
  (await import('./commands/database.ts')).withDatabase(await loadConfig(), 'lathe keys', work, say);

const COMMANDS: Record<string, Command> = {
  up: async (args) => {
    parse(args, 0);
    const { up } = await import('./commands/up.ts');
    return up(await loadConfig(), print);
  },
  api: async (args) => {
    parse(args, 0);
    return (await import('./commands/standalone.ts')).runApi();
  },
  trainer: async (args) => {
    const { values } = parse(args, 0, { once: { type: 'boolean' } });
    const { becomeWorker } = await import('./commands/standalone.ts');
    return becomeWorker('trainer', values.once ? { LATHE_TRAINER_ONCE: 'true' } : {}, say);
  },
  inference: async (args) => {
    parse(args, 0);
    return (await import('./commands/standalone.ts')).becomeWorker('inference', {}, say);
  },
  migrate: async (args) => {
    parse(args, 0);
    const { withDatabase } = await import('./commands/database.ts');
    await withDatabase(await loadConfig(), 'lathe migrate', async () => {}, say); // opening it migrates
    print('The database has the newest schema.');
    return 0;
  },
  'keys create': async (args) => {
    const { positionals, values } = parse(args, 1, { days: { type: 'string' } });
    const days = values.days === undefined ? null : Number(values.days);
    if (days !== null && !(days > 0)) throw new UsageError(`--days ${values.days} is not a number of days.`);
    const { createKeyCommand } = await import('./commands/keys.ts');
    print(await inDatabase((database) => createKeyCommand(database, positionals[0]!, days)));
    return 0;
  },
  'keys list': async (args) => {
    parse(args, 0);
    const { listKeysCommand } = await import('./commands/keys.ts');
    print(await inDatabase(listKeysCommand));
    return 0;
  },
  'keys revoke': async (args) => {
    const [id] = parse(args, 1).positionals;
    const { revokeKeyCommand } = await import('./commands/keys.ts');
    const revoked = await inDatabase((database) => revokeKeyCommand(database, id!));
    say(revoked ? 'Revoked; refused everywhere within 5 seconds.' : `There is no live key ${id}.`);
    return revoked ? 0 : 1;
  },
  'models pull': async (args) => {
    const { positionals, values } = parse(args, 1, { revision: { type: 'string', default: 'main' } });
    const { pullCommand } = await import('./commands/models.ts');
    print(await pullCommand(await loadConfig(), positionals[0]!, String(values.revision), say));
    return 0;
  },
  'models list': async (args) => {
    parse(args, 0);
    const { listCommand } = await import('./commands/models.ts');
    print(await listCommand(await loadConfig()));
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

/** Errors that are sentences for the person at the terminal, and the exit code of each; others show their stack. */
const EXIT_CODES: Record<string, number> = {
  ConfigError: 78,
  BaseModelError: 78,
  PullError: 1,
  HomeInUse: 1,
};

function explain(error: unknown): number {
  const { name, code, message, stack } = error as NodeJS.ErrnoException;
  if (error instanceof UsageError) {
    say(`${message}\n\n${HELP}`);
    return 2;
  }
  if (code === 'EADDRINUSE' || (code === 'EACCES' && /listen/.test(message))) {
    say(`Cannot listen: ${message}. Set PORT (0 takes any free one) or HOST.`);
    return 78;
  }
  say(name in EXIT_CODES ? message : (stack ?? String(error)));
  return EXIT_CODES[name] ?? 1;
}

process.exitCode = await main(process.argv.slice(2)).catch(explain);
// Open pools or timers of a failed start must not keep the process; everything that matters was awaited.
process.exit();
