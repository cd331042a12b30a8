/**
 * The `lathe` command: reads the arguments, runs one command, and turns what went wrong into a sentence and an exit
 * code (2 wrong usage, 78 wrong setting, 1 anything else).
 */
import { parseArgs } from 'node:util';
import type { Database } from './db/client.ts';

const HELP = `Usage: lathe COMMAND

  up                        run everything on this machine
  api                       run the API alone
  trainer [--once] [--devices 0,1|auto]
                            run a trainer alone, or one per GPU; --once ends when the queue is empty
  inference                 run an inference worker alone
  migrate                   bring the database to the newest schema
  sweep                     remove what nobody needs any more; the API does so by itself
  keys create NAME          print a new API key, once
    [--expires WHEN]        30d, 12h or 2027-01-31; --days N does the same
    [--scopes LIST]         such as api.files.read,api.model.request, or read-only; all unless given
    [--project ID]          the default project unless given
    [--admin]               a key of the admin API, for the project's organization
  keys list [--project ID] [--admin]   list the keys
  keys revoke ID            revoke a key
  projects create NAME [--organization SLUG]   print the id of a new project
  projects list             list the projects
  projects archive ID       refuse the project's keys from now on
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
    const { values } = parse(args, 0, { once: { type: 'boolean' }, devices: { type: 'string' } });
    const { becomeWorker } = await import('./commands/standalone.ts');
    const changes = {
      ...(values.once ? { LATHE_TRAINER_ONCE: 'true' } : {}),
      ...(values.devices === undefined ? {} : { LATHE_TRAINER_DEVICES: String(values.devices) }),
    };
    return becomeWorker('trainer', changes, say);
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
  sweep: async (args) => {
    parse(args, 0);
    const config = await loadConfig();
    const { sweepCommand } = await import('./commands/sweep.ts');
    const { withDatabase } = await import('./commands/database.ts');
    const { text, exitCode } = await withDatabase(
      config,
      'lathe sweep',
      (database) => sweepCommand(config, database),
      say,
    );
    print(text);
    return exitCode;
  },
  'keys create': async (args) => {
    const { positionals, values } = parse(args, 1, {
      ...{ days: { type: 'string' }, expires: { type: 'string' } },
      ...{ scopes: { type: 'string' }, project: { type: 'string' }, admin: { type: 'boolean' } },
    });
    const { createKeyCommand, parseExpiry } = await import('./commands/keys.ts');
    const {
      scopes,
      project,
      admin = false,
    } = values as { scopes?: string; project?: string; admin?: boolean };
    const end = values.expires ?? (values.days === undefined ? null : `${values.days}d`);
    const expiresAt = end === null ? null : parseExpiry(String(end));
    if (end !== null && !expiresAt)
      throw new UsageError(
        values.expires === undefined
          ? `--days ${values.days} is not a number of days.`
          : `--expires ${end} is no time ahead: give 30d, 12h or a date.`,
      );
    const options = { project, scopes, expiresAt, admin };
    print(await inDatabase((database) => createKeyCommand(database, positionals[0]!, options)));
    return 0;
  },
  'keys list': async (args) => {
    const { values } = parse(args, 0, { project: { type: 'string' }, admin: { type: 'boolean' } });
    const { listKeysCommand } = await import('./commands/keys.ts');
    const { project, admin = false } = values as { project?: string; admin?: boolean };
    print(await inDatabase((database) => listKeysCommand(database, { project, admin })));
    return 0;
  },
  'projects create': async (args) => {
    const { positionals, values } = parse(args, 1, { organization: { type: 'string' } });
    const { createProjectCommand } = await import('./commands/projects.ts');
    const slug = values.organization as string | undefined;
    print(await inDatabase((database) => createProjectCommand(database, positionals[0]!, slug)));
    return 0;
  },
  'projects list': async (args) => {
    parse(args, 0);
    const { listProjectsCommand } = await import('./commands/projects.ts');
    print(await inDatabase(listProjectsCommand));
    return 0;
  },
  'projects archive': async (args) => {
    const [id] = parse(args, 1).positionals;
    const { archiveProjectCommand } = await import('./commands/projects.ts');
    await inDatabase((database) => archiveProjectCommand(database, id!));
    say('Archived; its keys are refused everywhere within 5 seconds.');
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
  ApiError: 1,
  ConfigError: 78,
  BaseModelError: 78,
  PullError: 1,
  HomeInUse: 1,
  EmbeddedPostgresError: 1,
};

/** What the system and Postgres say when the database is not there, or does not let us in. */
const NO_DATABASE =
  /^(ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT|08\w{3}|28\w{3}|3D000|53300|57P03)$/;
const NO_TABLES = ['42P01', '42703', '3F000'];

/** The sentence for an error that speaks of the database, or null. */
function databaseTrouble(error: unknown): string | null {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const { code } = at as NodeJS.ErrnoException;
    if (typeof code !== 'string') continue;
    if (NO_DATABASE.test(code))
      return `The database cannot be used: ${at.message || code}. Check DATABASE_URL, and that it runs.`;
    if (NO_TABLES.includes(code))
      return `The database is not of this version (${at.message}): run \`lathe migrate\`, or a newer Lathe.`;
  }
  return null;
}

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
  const sentence = name in EXIT_CODES ? message : databaseTrouble(error);
  say(sentence ?? stack ?? String(error));
  return EXIT_CODES[name] ?? 1;
}

process.exitCode = await main(process.argv.slice(2)).catch(explain);
// Open pools or timers of a failed start must not keep the process; everything that matters was awaited.
process.exit();
