/**
 * Event streams of running jobs: `streams` readers spread over `jobs` jobs, each of which gets `rate` events a second
 * from a writer on a fixed schedule, written as trainers write them. Figures: how much longer than the schedule the
 * gaps between two events are (the added gap), how long an event takes from its row to its reader, and whether any is
 * missing. The floor is the same with one reader. Server, database, writer and readers share the machine.
 */
import { readFileSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import OpenAI, { toFile } from 'openai';
import { machine, options, quantile, round, rssMib } from './options.ts';
import { withService } from './service.ts';

interface Measured {
  gaps: number[];
  delays: number[];
  events: number;
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { streams: 500, jobs: 20, rate: 20, seconds: 8 });
  return withService(
    async ({ url, key, apiPid, databaseUrl }) => {
      const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
      const ids: string[] = [];
      for (let i = 0; i < o.jobs; i += 1) ids.push(await createWaitingJob(client));
      const alone = await measure({ ...o, url, key, databaseUrl, ids: ids.slice(0, 1), streams: 1 });
      const before = rssMib(apiPid);
      const cpuBefore = cpuSeconds(apiPid);
      const all = await measure({ ...o, url, key, databaseUrl, ids });
      const cpu = cpuSeconds(apiPid) - cpuBefore;
      const interval = 1000 / o.rate;
      const added = (m: Measured, q: number) => round(quantile(m.gaps, q) - interval);
      const expected = o.streams * o.rate * o.seconds;
      return {
        ...o,
        ...machine(),
        events_per_second: round(all.events / o.seconds),
        missing: expected - all.events,
        added_gap_p50_ms: added(all, 0.5),
        added_gap_p99_ms: added(all, 0.99),
        delay_p50_ms: round(quantile(all.delays, 0.5)),
        delay_p99_ms: round(quantile(all.delays, 0.99)),
        api_cpu_us_per_event: round((cpu * 1e6) / all.events),
        one_stream_added_gap_p99_ms: added(alone, 0.99),
        api_rss_mib: Math.round(rssMib(apiPid)),
        rss_kib_per_stream: Math.round(((rssMib(apiPid) - before) * 1024) / o.streams),
      };
    },
    { LATHE_MAX_EVENT_STREAMS: String(o.streams) },
  );
}

interface Load {
  url: string;
  key: string;
  databaseUrl: string;
  ids: string[];
  streams: number;
  rate: number;
  seconds: number;
}

/** Opens every stream, then lets the schedule run. */
async function measure(load: Load): Promise<Measured> {
  const measured: Measured = { gaps: [], delays: [], events: 0 };
  const { ids, url, key } = load;
  const open = await Promise.all(
    Array.from({ length: load.streams }, (_, i) => follow(url, key, ids[i % ids.length]!, measured)),
  );
  await write(load);
  const expected = load.streams * load.rate * load.seconds;
  for (let waited = 0; measured.events < expected && waited < 50; waited += 1) await sleep(100);
  for (const response of open) response.destroy();
  return measured;
}

/** One reader; it starts after the events that are there already. */
async function follow(url: string, key: string, id: string, measured: Measured): Promise<IncomingMessage> {
  const headers = { authorization: `Bearer ${key}` };
  const path = `${url}/v1/fine_tuning/jobs/${id}/events`;
  const last = (await (await fetch(`${path}?limit=1`, { headers })).json()) as { data: { id: string }[] };
  return new Promise((resolve, reject) => {
    const from = { ...headers, accept: 'text/event-stream', 'last-event-id': last.data[0]!.id };
    get(path, { headers: from, agent: false }, (response) => {
      if (response.statusCode !== 200) return reject(new Error(`a stream answered ${response.statusCode}`));
      let seenAt: number | null = null;
      response.setEncoding('latin1');
      response.on('data', (text: string) => {
        const now = performance.timeOrigin + performance.now();
        for (const [, sentAt] of text.matchAll(/"sent_at":([\d.]+)/g)) {
          measured.events += 1;
          measured.delays.push(now - Number(sentAt));
          if (seenAt !== null) measured.gaps.push(now - seenAt);
          seenAt = now;
        }
      });
      response.on('error', () => {}); // destroyed by us
      resolve(response);
    }).on('error', reject);
  });
}

/** The trainers: `rate` events a second for each job, from a thread of their own so that readers do not delay them. */
async function write({ databaseUrl, ids, rate, seconds }: Load): Promise<void> {
  const writer = new Worker(new URL('./sse-writer.ts', import.meta.url), {
    workerData: { databaseUrl, ids, rate, seconds },
  });
  await new Promise<void>((resolve, reject) => {
    writer.once('error', reject);
    writer.once('exit', () => resolve());
  });
}

/** Processor time a process has had so far (Linux; the kernel counts in hundredths). */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** A job that waits: paused before a trainer can take it. */
async function createWaitingJob(client: OpenAI): Promise<string> {
  const row = JSON.stringify({
    messages: [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
    ],
  });
  const file = await client.files.create({
    file: await toFile(Buffer.from(`${row}\n`.repeat(10)), 'train.jsonl'),
    purpose: 'fine-tune',
  });
  // A trainer that was faster has it in hand; it lets go at its next step.
  const job = await client.fineTuning.jobs.create({ model: 'lathe-tiny', training_file: file.id });
  await client.fineTuning.jobs.pause(job.id);
  return job.id;
}
