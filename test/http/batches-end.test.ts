/** Batches that end before their last line: cancelled, or after 24 hours. */
import { eq, sql } from 'drizzle-orm';
import { ConflictError } from 'openai';
import { describe, expect, it, vi } from 'vitest';
import { batches } from '../../src/db/schema-batches.ts';
import { echo, request, useBatches } from './batch-service.ts';

const { t, there, startRunner, createBatch, begun, ended, linesOf } = useBatches();

describe('the end', () => {
  it('by cancel: what is there stays, the rest is named in the error file', async () => {
    there.worker.script = (body) => [400, ...echo(body)];
    const batch = await createBatch(Array.from({ length: 60 }, (_, i) => request(`c${i}`, 'x')));
    startRunner();
    await vi.waitFor(async () => {
      const { request_counts } = await there.client.batches.retrieve(batch.id);
      expect(request_counts?.completed).toBeGreaterThan(3);
    }, 10_000);
    const cancelling = await there.client.batches.cancel(batch.id);
    expect(cancelling.status).toBe('cancelling');
    expect((await there.client.batches.cancel(batch.id)).cancelling_at).toBe(cancelling.cancelling_at);
    const done = await ended(batch.id);
    expect(done).toMatchObject({ status: 'cancelled', cancelled_at: expect.any(Number) });
    const [output, failures] = [await linesOf(done.output_file_id), await linesOf(done.error_file_id)];
    expect(output.length).toBe(done.request_counts?.completed);
    const names = [...output, ...failures].map((line) => line.custom_id);
    expect(new Set(names).size).toBe(60);
    expect(names).toHaveLength(60);
    expect(failures[0]).toMatchObject({ response: null, error: { code: 'batch_cancelled' } });
    await expect(there.client.batches.cancel(batch.id)).rejects.toBeInstanceOf(ConflictError);
  });

  it('by cancel before anything ran', async () => {
    const batch = await createBatch([request('a', 'x')]);
    await there.client.batches.cancel(batch.id);
    startRunner();
    expect(await ended(batch.id)).toMatchObject({ status: 'cancelled', output_file_id: null });
  });

  it('after 24 hours: what has no answer is named as expired', async () => {
    there.worker.script = echo;
    there.worker.health.waiting = 1;
    const batch = await createBatch([request('late', 'x')]);
    startRunner();
    await begun(batch.id);
    await t.database.db
      .update(batches)
      .set({ expiresAt: sql`clock_timestamp()` })
      .where(eq(batches.id, batch.id));
    const done = await ended(batch.id);
    expect(done).toMatchObject({ status: 'expired', expired_at: expect.any(Number) });
    expect(await linesOf(done.error_file_id)).toEqual([
      {
        id: expect.any(String),
        custom_id: 'late',
        response: null,
        error: { code: 'batch_expired', message: expect.stringMatching(/completion window/) },
      },
    ]);
  });
});
