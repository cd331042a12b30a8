/** A batch whose model belongs to other files of its base model than its workers hold: its lines end, with that reason. */
import { expect, it } from 'vitest';
import { request, useBatches } from './batch-service.ts';

const { there, startRunner, createBatch, ended, linesOf } = useBatches();

it('is answered at once', async () => {
  there.worker.script = {
    ...{ status: 503, type: 'service_unavailable_error', code: 'base_model_changed' },
    ...{ param: 'model', message: 'Other files.' },
  };
  startRunner();
  const { id } = await createBatch([request('a', 'Hi'), request('b', 'Ho')]);
  const batch = await ended(id);
  expect([batch.status, batch.request_counts]).toEqual(['completed', { total: 2, completed: 0, failed: 2 }]);
  const lines = await linesOf(batch.error_file_id);
  expect(lines.map(({ response }) => [response.status_code, response.body.error.code])).toEqual([
    [503, 'base_model_changed'],
    [503, 'base_model_changed'],
  ]);
});
