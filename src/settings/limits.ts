/** Settings that bound what a request, a project or a key may take. */
import { type Entry, entry, integer } from './entry.ts';

export const LIMITS = {
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
  maxBodyBytes: entry('LATHE_MAX_BODY_BYTES', 'Largest JSON body.', integer(1024, 2 ** 30), 10 * 1024 * 1024),
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
  inspectSeconds: entry(
    'LATHE_INSPECT_SECONDS',
    'Longest reading of the files of an estimate or a validation; larger files are read in part.',
    integer(1, 120),
    20,
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
    'Bytes that the files, imported adapters and stored completions of a project may have; 0 = no limit.',
    integer(0, Number.MAX_SAFE_INTEGER),
    0,
  ),
  maxWebhookDeliveries: entry(
    'LATHE_MAX_WEBHOOK_DELIVERIES',
    'Webhook deliveries of a project that may wait, and ended ones that are remembered; of more, the oldest go. 0 = no limit.',
    integer(0, 2 ** 31 - 1),
    10_000,
  ),
  maxEventStreams: entry(
    'LATHE_MAX_EVENT_STREAMS',
    'Streams of job events that one API key may have open in one API process; 0 = no limit.',
    integer(0, 1_000_000),
    256,
  ),
} satisfies Record<string, Entry>;
