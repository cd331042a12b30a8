/**
 * `npm run quickstart [-- --keep]`: a user's first hour in a minute. Starts the service, then does everything through
 * the official OpenAI SDK over HTTP: upload, create a job, watch it, ask base and tuned model side by side.
 * The last line is one JSON object; the exit code says whether all went well.
 */
import { createReadStream } from 'node:fs';
import { parseArgs } from 'node:util';
import OpenAI from 'openai';
import { homeHolder } from '../src/commands/home-lock.ts';
import { type Config, loadConfig } from '../src/config.ts';
import { type Followed, followJob } from './quickstart-progress.ts';
import { answerAll, exactMatch, sideBySide, snippets } from './quickstart-report.ts';
import { openService, type Service } from './quickstart-service.ts';
import {
  BASE_MODEL,
  HYPERPARAMETERS,
  readExercises,
  SEED,
  SUFFIX,
  TRAIN_FILE,
  VALID_FILE,
} from './quickstart-task.ts';

interface Summary {
  quickstart: 'ok' | 'failed';
  status: string | null;
  base_exact_match: number | null;
  tuned_exact_match: number | null;
  base_valid_loss: number | null;
  tuned_valid_loss: number | null;
  train_seconds: number | null;
  total_seconds: number;
  model: string | null;
}

const summary: Summary = {
  quickstart: 'failed',
  status: null,
  base_exact_match: null,
  tuned_exact_match: null,
  base_valid_loss: null,
  tuned_valid_loss: null,
  train_seconds: null,
  total_seconds: 0,
  model: null,
};

const say = (text: string) => process.stdout.write(`${text}\n`);
const rounded = (value: number | null, digits: number) =>
  value === null ? null : Number(value.toFixed(digits));

/** Uploads both files and creates the job. */
async function createJob(client: OpenAI): Promise<string> {
  const [training, validation] = await Promise.all(
    [TRAIN_FILE, VALID_FILE].map((file) =>
      client.files.create({ file: createReadStream(file), purpose: 'fine-tune' }),
    ),
  );
  say(`Uploaded ${training!.filename} (${training!.id}) and ${validation!.filename} (${validation!.id})`);
  const job = await client.fineTuning.jobs.create({
    model: BASE_MODEL,
    training_file: training!.id,
    validation_file: validation!.id,
    suffix: SUFFIX,
    seed: SEED,
    method: { type: 'supervised', supervised: { hyperparameters: HYPERPARAMETERS } },
  });
  say(`Created ${job.id}`);
  return job.id;
}

function noteTraining({ job, trainSeconds, baseValidLoss, tunedValidLoss }: Followed): string {
  summary.status = job.status;
  summary.model = job.fine_tuned_model;
  summary.train_seconds = rounded(trainSeconds, 1);
  summary.base_valid_loss = rounded(baseValidLoss, 4);
  summary.tuned_valid_loss = rounded(tunedValidLoss, 4);
  if (job.status !== 'succeeded' || !job.fine_tuned_model) {
    throw new Error(`The job ended as '${job.status}': ${job.error?.message ?? 'no reason given'}`);
  }
  return job.fine_tuned_model;
}

async function play(service: Service, config: Config, keep: boolean): Promise<void> {
  const client = new OpenAI({
    baseURL: `${service.url}/v1`,
    apiKey: service.key,
    maxRetries: 5,
    timeout: 60_000,
  });
  const jobId = await createJob(client);
  const model = noteTraining(await followJob(client, jobId, process.stdout));

  const exercises = readExercises();
  say(`\nAsking ${BASE_MODEL} and ${model} ${exercises.length} questions that neither has seen…\n`);
  const base = await answerAll(client, BASE_MODEL, exercises);
  const tuned = await answerAll(client, model, exercises);
  summary.base_exact_match = rounded(exactMatch(base, exercises), 4);
  summary.tuned_exact_match = rounded(exactMatch(tuned, exercises), 4);
  say(sideBySide(exercises, base, tuned));

  const percent = (share: number | null) => `${(100 * (share ?? 0)).toFixed(0)} %`;
  say(`\n               base → tuned
exact match    ${percent(summary.base_exact_match)} → ${percent(summary.tuned_exact_match)}
valid loss     ${summary.base_valid_loss} → ${summary.tuned_valid_loss}
model          ${model}\n`);
  const stays = keep || service.adopted;
  if (!stays)
    say(
      'The service stops now. `npm start` brings it back with this model; it prints an API key, use it as KEY:\n',
    );
  const url = stays ? service.url : `http://127.0.0.1:${config.port}`;
  say(`${snippets(url, stays ? service.key : 'KEY', model, exercises[0]!)}\n`);
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false } } });
  const config = loadConfig();
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => stop.abort(new Error(`stopped by ${signal}`)));
  }
  let service: Service | null = null;
  try {
    say('Starting the service…');
    service = await openService(config, values.keep, stop.signal, say);
    say(
      service.adopted
        ? `Using the service that runs at ${service.url}`
        : `The service runs at ${service.url}`,
    );
    await Promise.race([play(service, config, values.keep), aborted(stop.signal)]);
    summary.quickstart = 'ok';
    if (values.keep) {
      say(
        `The service stays at ${service.url} (logs: ${service.logs}). It stops with: kill ${homeHolder(config.home)?.pid}`,
      );
    }
  } catch (error) {
    say(
      `\nThe quickstart failed: ${(error as Error).message}\nLogs: ${service?.logs ?? `${config.home}/logs`}`,
    );
  }
  const stays = summary.quickstart === 'ok' && (values.keep || service?.adopted);
  if (!stays) await service?.stop();
  summary.total_seconds = Number((performance.now() / 1000).toFixed(1));
  say(JSON.stringify(summary));
  return summary.quickstart === 'ok' ? 0 : 1;
}

process.exitCode = await main();
process.exit();
