/**
 * The settings in force, from the environment and the table of src/settings.ts. The only reader of the process
 * environment. A bad value stops the start with a sentence that names it.
 */
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { z } from 'zod';
import type { Entry } from './settings/entry.ts';
import { PROJECT_ROOT } from './settings/service.ts';
import { SETTINGS } from './settings.ts';

export { PROJECT_ROOT };

type Environment = Record<string, string | undefined>;

/** Exit code that says: a setting is wrong, starting again would not help (sysexits EX_CONFIG). */
export const EXIT_CONFIG = 78;

/** Thrown with one line per bad setting. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

export type StorageConfig =
  | { kind: 'disk'; dir: string }
  | {
      kind: 's3';
      bucket: string;
      endpoint: string | null;
      region: string;
      accessKeyId: string | null;
      secretAccessKey: string | null;
      prefix: string;
      checksums: 'required' | 'supported';
    };

/** A base model on this machine's disk, in Hugging Face's folder layout. */
export interface BaseModelSource {
  id: string;
  location: string;
}

type Scalars = { [K in keyof typeof SETTINGS]: (typeof SETTINGS)[K]['default'] };
type Derived = 'baseModelList' | 'storageDir' | 'scratchDir' | 'workerToken' | `s3${string}`;

export interface Config extends Readonly<Omit<Scalars, Derived>> {
  readonly storage: StorageConfig;
  /** Folders given by LATHE_BASE_MODELS; null = the shipped model and everything under <home>/models. */
  readonly baseModels: readonly BaseModelSource[] | null;
  readonly scratchDir: string;
  /** Secret between the API and inference workers; random for this process unless set. */
  readonly workerToken: string;
  /** True when the token was given, so that other processes can know it too. */
  readonly workerTokenShared: boolean;
}

function parseSettings(env: Environment): Scalars {
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(SETTINGS) as [string, Entry][]) {
    const given = env[setting.env]?.trim();
    if (given === undefined || (given === '' && !setting.mayBeEmpty)) {
      values[name] = setting.default;
      continue;
    }
    const parsed = setting.schema.safeParse(given);
    if (parsed.success) values[name] = parsed.data;
    else {
      const secret = /TOKEN|SECRET|KEY|DATABASE_URL/.test(setting.env);
      const why = parsed.error.issues.map((issue) => issue.message).join('; ');
      problems.push(`${setting.env}=${secret ? '(hidden)' : given} is not valid: ${why}. ${setting.doc}`);
    }
  }
  if (problems.length > 0) throw new ConfigError(problems.join('\n'));
  return values as Scalars;
}

/** A lease must outlive two lost renewals, or every hiccup of the database would end an attempt. */
function checkLease({ leaseSeconds, heartbeatSeconds }: Pick<Scalars, 'leaseSeconds' | 'heartbeatSeconds'>) {
  if (heartbeatSeconds * 3 <= leaseSeconds) return;
  throw new ConfigError(
    `LATHE_HEARTBEAT_SECONDS=${heartbeatSeconds} is too long for LATHE_LEASE_SECONDS=${leaseSeconds}: ` +
      'a lease must last at least three heartbeats.',
  );
}

/** Rounded weights have kernels on the CPU alone. */
function checkQuantization({ quantization, device }: Pick<Scalars, 'quantization' | 'device'>) {
  if (quantization === 'none' || device !== 'cuda') return;
  throw new ConfigError(`LATHE_QUANTIZATION=${quantization} is for the CPU, but LATHE_DEVICE is cuda.`);
}

function storageConfig(s: Scalars, home: string): StorageConfig {
  if (s.s3Bucket === null) {
    const stray = (['s3Endpoint', 's3AccessKeyId', 's3SecretAccessKey'] as const).find(
      (name) => s[name] !== null,
    );
    if (stray)
      throw new ConfigError(`${SETTINGS[stray].env} is set but S3_BUCKET is not: name the bucket to use S3.`);
    return {
      kind: 'disk',
      dir: s.storageDir === null ? path.join(home, 'storage') : path.resolve(s.storageDir),
    };
  }
  if ((s.s3AccessKeyId === null) !== (s.s3SecretAccessKey === null)) {
    throw new ConfigError('S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together: only one of them is set.');
  }
  return {
    kind: 's3',
    bucket: s.s3Bucket,
    endpoint: s.s3Endpoint,
    region: s.s3Region,
    accessKeyId: s.s3AccessKeyId,
    secretAccessKey: s.s3SecretAccessKey,
    prefix: s.s3Prefix,
    checksums: s.s3Checksums,
  };
}

const SourceList = z.array(z.object({ id: z.string().min(1), location: z.string().min(1) }));

/** "folder,id=folder", or the JSON that a parent process hands to its children (paths may hold any character). */
function baseModelSources(list: string | null): BaseModelSource[] | null {
  if (list === null) return null;
  if (list.startsWith('[')) return SourceList.parse(JSON.parse(list));
  const sources = list.split(',').map((item) => {
    const equals = item.indexOf('=');
    const location = item.slice(equals + 1).trim();
    const id = equals < 0 ? path.basename(location) : item.slice(0, equals).trim();
    if (id === '' || location === '') {
      throw new ConfigError(
        `LATHE_BASE_MODELS=${list} is not valid: '${item}' is neither a folder nor id=folder.`,
      );
    }
    return { id, location: path.resolve(location) };
  });
  const twice = sources.find((a, i) => sources.findIndex((b) => b.id === a.id) !== i);
  if (twice) throw new ConfigError(`LATHE_BASE_MODELS=${list} is not valid: '${twice.id}' is named twice.`);
  return sources;
}

/**
 * Reads the settings from `env`, lays `overrides` over the result (tests, command-line flags) and freezes it.
 * Throws ConfigError with one line per bad value.
 */
export function loadConfig(env: Environment = process.env, overrides: Partial<Config> = {}): Config {
  const s = parseSettings(env);
  checkLease({ ...s, ...overrides });
  checkQuantization({ ...s, ...overrides });
  const home = path.resolve(overrides.home ?? s.home);
  const {
    baseModelList,
    storageDir,
    s3Bucket,
    s3Endpoint,
    s3Region,
    s3AccessKeyId,
    s3SecretAccessKey,
    s3Prefix,
    s3Checksums,
    ...rest
  } = s;
  return Object.freeze({
    ...rest,
    storage: storageConfig(s, home),
    baseModels: baseModelSources(baseModelList),
    scratchDir: s.scratchDir === null ? path.join(home, 'scratch') : path.resolve(s.scratchDir),
    workerToken: s.workerToken ?? randomBytes(24).toString('base64url'),
    workerTokenShared: s.workerToken !== null,
    ...overrides,
    home,
  });
}

/** The environment of a child process that must see exactly this configuration; `changes` go on top. */
export function childEnvironment(
  config: Config,
  changes: Record<string, string> = {},
): Record<string, string> {
  const env: Record<string, string> = {};
  const ours = new Set<string>(Object.values(SETTINGS).map((setting) => setting.env));
  for (const [name, value] of Object.entries(process.env))
    if (value !== undefined && !ours.has(name)) env[name] = value;
  const { storage, baseModels, ...scalars } = config;
  for (const [name, value] of Object.entries(scalars)) {
    const setting = (SETTINGS as Record<string, Entry>)[name];
    if (setting && value !== null && value !== '') env[setting.env] = String(value);
  }
  if (storage.kind === 'disk') env[SETTINGS.storageDir.env] = storage.dir;
  else {
    env[SETTINGS.s3Bucket.env] = storage.bucket;
    env[SETTINGS.s3Region.env] = storage.region;
    env[SETTINGS.s3Checksums.env] = storage.checksums;
    if (storage.prefix !== '') env[SETTINGS.s3Prefix.env] = storage.prefix;
    if (storage.endpoint !== null) env[SETTINGS.s3Endpoint.env] = storage.endpoint;
    if (storage.accessKeyId !== null) env[SETTINGS.s3AccessKeyId.env] = storage.accessKeyId;
    if (storage.secretAccessKey !== null) env[SETTINGS.s3SecretAccessKey.env] = storage.secretAccessKey;
  }
  if (baseModels) {
    env[SETTINGS.baseModelList.env] = JSON.stringify(
      baseModels.map(({ id, location }) => ({ id, location })),
    );
  }
  return { ...env, ...changes };
}
