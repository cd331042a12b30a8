/** The writing side of bench/sse.ts, as a thread: an event for each job on a fixed schedule, then the end. */
import { setTimeout as sleep } from 'node:timers/promises';
import { workerData } from 'node:worker_threads';
import { openDatabase } from '../src/db/client.ts';
import { insertEvents, metrics } from '../src/queue/sql.ts';

const { databaseUrl, ids, rate, seconds } = workerData as {
  databaseUrl: string;
  ids: string[];
  rate: number;
  seconds: number;
};
const database = openDatabase(databaseUrl, { connections: 4 });
const start = performance.now();
for (let round = 0; round < rate * seconds; round += 1) {
  const due = start + (round * 1000) / rate;
  if (performance.now() < due) await sleep(due - performance.now());
  await Promise.all(
    ids.map((jobId) => {
      const sent_at = performance.timeOrigin + performance.now();
      const data = { step: round + 1, total_steps: 100_000, train_loss: 0.123456, sent_at };
      return insertEvents(database.db, { jobId }, [
        metrics(`Step ${round + 1}/100000: training loss=0.12`, data),
      ]);
    }),
  );
}
await database.close();
