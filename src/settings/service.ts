/** Settings of the service itself: where it listens, what it stores where, and what it does beside answering. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { aesKeys, type Entry, entry, flag, integer, origins, text, url } from './entry.ts';

/** Folder of the project (where package.json lies). */
export const PROJECT_ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

export const SERVICE = {
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
  workerWaitSeconds: entry(
    'LATHE_WORKER_WAIT_SECONDS',
    'How long a request whose inference worker stopped waits for one to take over.',
    integer(0, 3600),
    60,
  ),
  batchConcurrency: entry(
    'LATHE_BATCH_CONCURRENCY',
    'Requests of batches that one API process has under way at a time; 0 leaves batches to other processes.',
    integer(0, 1024),
    8,
  ),
  drainSeconds: entry('LATHE_DRAIN_SECONDS', 'Time for open requests after SIGTERM.', integer(0, 3600), 30),
  baseModelList: entry(
    'LATHE_BASE_MODELS',
    'Base models as folder or id=folder, separated by commas; unset means models/lathe-tiny and all pulled ones.',
    text(),
    null,
  ),
  resultFilesBase64: entry(
    'LATHE_RESULT_FILES_BASE64',
    "The content of jobs' result files is base64 of the CSV, as OpenAI serves it: for scripts that decode it.",
    flag(),
    false,
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
  encryptionKeys: entry(
    'LATHE_ENCRYPTION_KEY',
    'Stores webhook signing secrets encrypted: 32 bytes in base64. Several, separated by commas: the first encrypts, all decrypt.',
    aesKeys(),
    [],
  ),
  hubUrl: entry(
    'HF_ENDPOINT',
    'Where models are pulled from.',
    url(['http:', 'https:']),
    'https://huggingface.co',
  ),
  hubToken: entry('HF_TOKEN', 'Token for gated models.', text(), null),
} satisfies Record<string, Entry>;
