/**
 * The table of settings: environment variable, meaning, range and default of each. What they mean together, and the
 * reading of the environment, is config.ts.
 */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

/** Folder of the project (where package.json lies). */
export const PROJECT_ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

const text = () => z.string();
const flag = () =>
  z
    .enum(['0', '1', 'false', 'true'], { error: 'expected true or false' })
    .transform((v) => v === '1' || v === 'true');
const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^-?\d+$/, `expected a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `expected a whole number from ${min} to ${max}`);
const url = (protocols: string[]) =>
  z.string().refine(
    (value) => {
      return URL.canParse(value) && protocols.includes(new URL(value).protocol);
    },
    `expected a URL that starts with ${protocols.map((p) => `${p}//`).join(' or ')}`,
  );
const seconds = (list: z.ZodString) =>
  list
    .regex(/^\d+(\.\d+)?(,\d+(\.\d+)?)*$/, 'expected seconds separated by commas, such as 1,10,60')
    .transform((v) => v.split(',').map(Number));

const ORIGIN = /^(\*|[a-z][a-z\d+.-]*:\/\/[^\s/?#@]+)$/;
const origins = () =>
  z
    .string()
    .transform((v) =>
      v
        .split(',')
        .map((item) => item.trim().toLowerCase())
        .filter(Boolean),
    )
    .refine(
      (list) => list.every((item) => ORIGIN.test(item)),
      "expected '*' or origins such as https://app.example.com, separated by commas",
    );

/** One setting. */
export interface Entry<S extends z.ZodType = z.ZodType> {
  env: string;
  doc: string;
  schema: S;
  default: z.output<S> | null;
  /** Set, an empty variable is a value and not the same as an unset one. */
  mayBeEmpty?: true;
}

const entry = <S extends z.ZodType, D extends z.output<S> | null>(
  env: string,
  doc: string,
  schema: S,
  fallback: D,
) => ({
  env,
  doc,
  schema,
  default: fallback as D extends null ? z.output<S> | null : z.output<S>,
});

/** One line per setting; the configuration page is made from this table. */
export const SETTINGS = {
  host: entry('HOST', 'Address the API listens on.', text(), '127.0.0.1'),
  port: entry('PORT', 'Port of the API; 0 takes any free one.', integer(0, 65535), 8080),
  home: entry('LATHE_HOME', 'Folder of all local state.', text(), path.join(PROJECT_ROOT, '.lathe')),
  logLevel: entry(
    'LOG_LEVEL',
    'Least severe level written.',
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']),
    'info',
  ),
  databaseUrl: entry(
    'DATABASE_URL',
    'Postgres to use; unset starts the embedded one.',
    url(['postgres:', 'postgresql:']),
    null,
  ),
  databasePool: entry('LATHE_DATABASE_POOL', 'Connections per process, leases apart.', integer(1, 200), 10),
  storageDir: entry('LATHE_STORAGE_DIR', 'Folder of disk storage; <home>/storage unless set.', text(), null),
  s3Bucket: entry('S3_BUCKET', 'Bucket; when set, objects go to S3 instead of the disk.', text(), null),
  s3Endpoint: entry(
    'S3_ENDPOINT',
    'URL of an S3-compatible server; unset means AWS.',
    url(['http:', 'https:']),
    null,
  ),
  s3Region: entry('S3_REGION', 'Region that requests are signed for.', text(), 'us-east-1'),
  s3AccessKeyId: entry('S3_ACCESS_KEY_ID', 'Access key.', text(), null),
  s3SecretAccessKey: entry('S3_SECRET_ACCESS_KEY', 'Secret key.', text(), null),
  s3Prefix: entry('S3_PREFIX', 'Put before every key in the bucket.', text(), ''),
  s3Checksums: entry(
    'S3_CHECKSUMS',
    "The SDK's own CRC: 'required' only where S3 insists, 'supported' wherever it can.",
    z.enum(['required', 'supported']),
    'required',
  ),
  corsOrigins: {
    ...entry(
      'LATHE_CORS_ORIGINS',
      "Origins of web pages that may call the API, separated by commas; '*' means any, empty none.",
      origins(),
      ['*'],
    ),
    mayBeEmpty: true as const,
  },
  maxFileBytes: entry('LATHE_MAX_FILE_BYTES', 'Largest upload.', integer(1, 2 ** 43), 512 * 1024 * 1024),
  maxUploadBytes: entry(
    'LATHE_MAX_UPLOAD_BYTES',
    'Largest file put together from the parts of an Upload.',
    integer(1, 2 ** 43),
    8 * 1024 ** 3,
  ),
  maxAdapterBytes: entry(
    'LATHE_MAX_ADAPTER_BYTES',
    'Largest adapter that may be imported.',
    integer(1024, 2 ** 43),
    2 * 1024 ** 3,
  ),
  maxImports: entry(
    'LATHE_MAX_IMPORTS',
    'Adapters of a project that may be checked at a time while their senders wait.',
    integer(1, 10_000),
    8,
  ),
  maxExports: entry(
    'LATHE_MAX_EXPORTS',
    'Merged models that a project may keep at a time.',
    integer(1, 10_000),
    4,
  ),
  exportSeconds: entry(
    'LATHE_EXPORT_SECONDS',
    'How long a merged model can be downloaded.',
    integer(60, 2_592_000),
    86_400,
  ),
  sweepSeconds: entry(
    'LATHE_SWEEP_SECONDS',
    'How often the API removes what nobody needs any more; 0 leaves it to `lathe sweep`.',
    integer(0, 604_800),
    900,
  ),
  sweepGraceSeconds: entry(
    'LATHE_SWEEP_GRACE_SECONDS',
    'Stored objects that nothing refers to are kept at least this long.',
    integer(60, 31_536_000),
    86_400,
  ),
  batchConcurrency: entry(
    'LATHE_BATCH_CONCURRENCY',
    'Requests of batches that one API process has under way at a time; 0 leaves batches to other processes.',
    integer(0, 1024),
    8,
  ),
  maxBodyBytes: entry('LATHE_MAX_BODY_BYTES', 'Largest JSON body.', integer(1024, 2 ** 30), 10 * 1024 * 1024),
  inspectSeconds: entry(
    'LATHE_INSPECT_SECONDS',
    'Longest reading of the files of an estimate or a validation; larger files are read in part.',
    integer(1, 120),
    20,
  ),
  drainSeconds: entry('LATHE_DRAIN_SECONDS', 'Time for open requests after SIGTERM.', integer(0, 3600), 30),
  baseModelList: entry(
    'LATHE_BASE_MODELS',
    'Base models as folder or id=folder, separated by commas; unset means models/lathe-tiny and all pulled ones.',
    text(),
    null,
  ),
  device: entry('LATHE_DEVICE', 'Where tensors live.', z.enum(['auto', 'cpu', 'cuda']), 'auto'),
  trainerDevices: entry(
    'LATHE_TRAINER_DEVICES',
    'GPUs that train, one trainer process each: "auto" for all, or numbers such as 0,1; unset means the first alone.',
    text(),
    null,
  ),
  threads: entry('LATHE_THREADS', 'Threads of the CPU backend.', integer(1, 1024), availableParallelism()),
  workerToken: entry('LATHE_WORKER_TOKEN', 'Secret between API and inference workers.', text().min(16), null),
  inferenceModel: entry(
    'LATHE_INFERENCE_MODEL',
    'Id of the base model this inference worker holds.',
    text(),
    null,
  ),
  inferenceHost: entry('LATHE_INFERENCE_HOST', 'Address inference listens on.', text(), '127.0.0.1'),
  inferencePort: entry(
    'LATHE_INFERENCE_PORT',
    'Port of inference; 0 takes any free one.',
    integer(0, 65535),
    0,
  ),
  inferenceUrl: entry(
    'LATHE_INFERENCE_URL',
    'Address the API reaches this inference worker at; made from host and port unless set.',
    url(['http:', 'https:']),
    null,
  ),
  kvCacheBytes: entry('LATHE_KV_CACHE_BYTES', 'Memory of the KV cache; 0 chooses.', integer(0, 2 ** 43), 0),
  maxRunning: entry('LATHE_MAX_RUNNING', 'Sequences generated together.', integer(1, 4096), 32),
  maxWaiting: entry(
    'LATHE_MAX_WAITING',
    'Requests that may wait; more get 429. The last quarter is kept for projects that have few of them.',
    integer(0, 65536),
    256,
  ),
  maxAdapters: entry('LATHE_MAX_ADAPTERS', 'Adapters held in memory.', integer(1, 4096), 16),
  scratchDir: entry(
    'LATHE_SCRATCH_DIR',
    'Working files of attempts; <home>/scratch unless set.',
    text(),
    null,
  ),
  leaseSeconds: entry(
    'LATHE_LEASE_SECONDS',
    'How long a claimed job belongs to a worker.',
    integer(3, 3600),
    30,
  ),
  heartbeatSeconds: entry('LATHE_HEARTBEAT_SECONDS', 'How often the lease is renewed.', integer(1, 600), 5),
  pollMilliseconds: entry(
    'LATHE_POLL_MS',
    'How often an idle trainer looks for a job.',
    integer(10, 60000),
    1000,
  ),
  stallSeconds: entry(
    'LATHE_STALL_SECONDS',
    'No step for this long: the attempt is killed.',
    integer(1, 86400),
    120,
  ),
  crashBudget: entry(
    'LATHE_CRASH_BUDGET',
    'Crashes without a new checkpoint that fail a job.',
    integer(1, 100),
    3,
  ),
  crashBackoffSeconds: entry(
    'LATHE_CRASH_BACKOFF_SECONDS',
    'Wait after each crash of a job.',
    seconds(z.string()),
    [1, 10, 60],
  ),
  requestsPerMinute: entry(
    'LATHE_REQUESTS_PER_MINUTE',
    'Model requests a minute of a project on one base model and its tuned models; 0 = no limit.',
    integer(0, 2 ** 31 - 1),
    0,
  ),
  tokensPerMinute: entry(
    'LATHE_TOKENS_PER_MINUTE',
    'Tokens a minute of a project on one base model and its tuned models; 0 = no limit.',
    integer(0, 2 ** 31 - 1),
    0,
  ),
  maxActiveJobs: entry(
    'LATHE_MAX_ACTIVE_JOBS',
    'Jobs of a project that may wait or run at once; 0 = no limit.',
    integer(0, 2 ** 31 - 1),
    0,
  ),
  maxOpenBatches: entry(
    'LATHE_MAX_OPEN_BATCHES',
    'Batches of a project that may wait or run at once; 0 = no limit.',
    integer(0, 2 ** 31 - 1),
    500,
  ),
  maxTrainedTokens: entry(
    'LATHE_MAX_TRAINED_TOKENS',
    'Tokens that one job may train on, all epochs together; 0 = no limit.',
    integer(0, Number.MAX_SAFE_INTEGER),
    0,
  ),
  maxFiles: entry('LATHE_MAX_FILES', 'Files of a project; 0 = no limit.', integer(0, 2 ** 31 - 1), 0),
  maxStorageBytes: entry(
    'LATHE_MAX_STORAGE_BYTES',
    'Bytes that the files of a project may have together; 0 = no limit.',
    integer(0, Number.MAX_SAFE_INTEGER),
    0,
  ),
  maxEventStreams: entry(
    'LATHE_MAX_EVENT_STREAMS',
    'Streams of job events that one API key may have open in one API process; 0 = no limit.',
    integer(0, 1_000_000),
    256,
  ),
  webhookPrivateAddresses: entry(
    'LATHE_WEBHOOK_PRIVATE',
    'Webhooks may go to private addresses and to http URLs: for receivers in your own network.',
    flag(),
    false,
  ),
  webhookPollMilliseconds: entry(
    'LATHE_WEBHOOK_POLL_MS',
    'How often the API looks for webhooks to deliver.',
    integer(10, 600_000),
    1000,
  ),
  webhookDisableHours: entry(
    'LATHE_WEBHOOK_DISABLE_HOURS',
    'A webhook endpoint whose deliveries have failed for this long is switched off.',
    integer(1, 8760),
    120,
  ),
  hubUrl: entry(
    'HF_ENDPOINT',
    'Where models are pulled from.',
    url(['http:', 'https:']),
    'https://huggingface.co',
  ),
  hubToken: entry('HF_TOKEN', 'Token for gated models.', text(), null),
  once: entry('LATHE_TRAINER_ONCE', 'The trainer ends when the queue is empty.', flag(), false),
} satisfies Record<string, Entry>;
