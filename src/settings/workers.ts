/** Settings of the machines that compute: devices, the trainer's leases, the inference worker's room. */
import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { type Entry, entry, flag, integer, seconds, text, url } from './entry.ts';

export const WORKERS = {
  device: entry('LATHE_DEVICE', 'Where tensors live.', z.enum(['auto', 'cpu', 'cuda']), 'auto'),
  trainerDevices: entry(
    'LATHE_TRAINER_DEVICES',
    'GPUs that train, one trainer process each: "auto" for all, or numbers such as 0,1; unset means the first alone.',
    text(),
    null,
  ),
  threads: entry('LATHE_THREADS', 'Threads of the CPU backend.', integer(1, 1024), availableParallelism()),
  workerToken: entry('LATHE_WORKER_TOKEN', 'Secret between API and inference workers.', text().min(16), null),
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
    'No step for this long: the attempt is killed; an inference worker that hangs after five times as long.',
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
  once: entry('LATHE_TRAINER_ONCE', 'The trainer ends when the queue is empty.', flag(), false),
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
  quantization: entry(
    'LATHE_QUANTIZATION',
    'How inference on the CPU holds linear weights: int8 takes half the memory of bf16 (docs/quantization.md).',
    z.enum(['none', 'int8']),
    'none',
  ),
  maxAdapters: entry('LATHE_MAX_ADAPTERS', 'Adapters held in memory.', integer(1, 4096), 16),
} satisfies Record<string, Entry>;
