/**
 * Authenticated, database-backed reads: closed loop of `connections` clients, each on a job of its own (of
 * `jobs`), requests/s and latency.
 * The floor is the same loop on `/healthz`, which only proves that HTTP works, in alternating rounds of the same run.
 * Client and server share the machine.
 */
import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import { machine, median, options, quantile, round, rssMib } from './options.ts';
import { withService } from './service.ts';

const ENDED = new Set(['succeeded', 'failed', 'cancelled']);

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { connections: 32, jobs: 32, seconds: 3, rounds: 3 });
  return withService(async ({ url, key, apiPid }) => {
    const ids = await finishedJobs(url, key, o.jobs);
    const jobs = ids.map((id) => `/v1/fine_tuning/jobs/${id}`);
    const agent = new Agent({ keepAlive: true, maxSockets: o.connections });
    const loop = (paths: string[]) =>
      closedLoop(
        agent,
        paths.map((path) => url + path),
        key,
        o.connections,
        o.seconds,
      );
    await loop(jobs);
    const reads: Measured[] = [];
    const floors: Measured[] = [];
    for (let i = 0; i < o.rounds; i++) {
      reads.push(await loop(jobs));
      floors.push(await loop(['/healthz']));
    }
    agent.destroy();
    const requestsPerSecond = median(reads.map((r) => r.requestsPerSecond));
    const floor = median(floors.map((r) => r.requestsPerSecond));
    return {
      ...o,
      ...machine(),
      requests_per_second: round(requestsPerSecond),
      p50_ms: round(median(reads.map((r) => r.p50))),
      p99_ms: round(median(reads.map((r) => r.p99))),
      errors: reads.reduce((sum, r) => sum + r.errors, 0),
      floor_requests_per_second: round(floor),
      ratio_to_floor: round(requestsPerSecond / floor),
      api_rss_mib: Math.round(rssMib(apiPid)),
    };
  });
}

/** Jobs that have ended (cancelled), so that nothing trains beside the measurement. */
async function finishedJobs(url: string, key: string, count: number): Promise<string[]> {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
  const rows = Array.from({ length: 10 }, (_, i) =>
    JSON.stringify({
      messages: [
        { role: 'user', content: `${i}` },
        { role: 'assistant', content: 'yes' },
      ],
    }),
  );
  const file = await client.files.create({
    file: await toFile(Buffer.from(rows.join('\n')), 'train.jsonl'),
    purpose: 'fine-tune',
  });
  const ids: string[] = [];
  while (ids.length < count) {
    const { id } = await client.fineTuning.jobs.create({ model: 'lathe-tiny', training_file: file.id });
    await client.fineTuning.jobs.cancel(id).catch(() => {}); // a job this small may already have ended
    while (!ENDED.has((await client.fineTuning.jobs.retrieve(id)).status)) await sleep(200);
    ids.push(id);
  }
  return ids;
}

interface Measured {
  requestsPerSecond: number;
  p50: number;
  p99: number;
  errors: number;
}

async function closedLoop(
  agent: Agent,
  urls: string[],
  key: string,
  connections: number,
  seconds: number,
): Promise<Measured> {
  const times: number[] = [];
  let errors = 0;
  const start = performance.now();
  const end = start + seconds * 1000;
  const client = async (_: unknown, index: number) => {
    const url = urls[index % urls.length]!;
    while (performance.now() < end) {
      const sent = performance.now();
      if ((await status(agent, url, key)) !== 200) errors++;
      times.push(performance.now() - sent);
    }
  };
  await Promise.all(Array.from({ length: connections }, client));
  const elapsed = (performance.now() - start) / 1000;
  return {
    requestsPerSecond: times.length / elapsed,
    p50: quantile(times, 0.5),
    p99: quantile(times, 0.99),
    errors,
  };
}

function status(agent: Agent, url: string, key: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { agent, headers: { authorization: `Bearer ${key}` } }, (answer) => {
      answer.resume();
      answer.on('end', () => resolve(answer.statusCode ?? 0));
    });
    sent.on('error', reject);
    sent.end();
  });
}
