/** The matrix: batches over the real model, and graders. */
import type OpenAI from 'openai';
import { describe, expect, it, vi } from 'vitest';
import { type Matrix, MODEL } from './harness.ts';

export function batchesMatrix(m: () => Matrix): void {
  const ask = (id: string, fields: object = {}) =>
    JSON.stringify({
      custom_id: id,
      method: 'POST',
      url: '/v1/chat/completions',
      body: {
        model: MODEL,
        messages: [{ role: 'user', content: 'Hi' }],
        max_completion_tokens: 6,
        ...fields,
      },
    });
  const start = async (lines: string[]) => {
    const { client } = m();
    const file = await client.files.create({
      file: new File([lines.join('\n')], 'in.jsonl'),
      purpose: 'batch',
    });
    return client.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/chat/completions',
      completion_window: '24h',
      metadata: { area: 'matrix' },
      output_expires_after: { anchor: 'created_at', seconds: 3600 },
    });
  };
  const ended = (id: string) =>
    vi.waitFor(
      async () => {
        const batch = await m().client.batches.retrieve(id);
        if (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status))
          throw new Error(batch.status);
        return batch;
      },
      { timeout: 30_000, interval: 100 },
    );

  describe('batches', () => {
    it('run to their files', async () => {
      const { client } = m();
      const done = await ended((await start([ask('a'), ask('b', { temperature: 7 })])).id);
      expect(done).toMatchObject({
        status: 'completed',
        request_counts: { total: 2, completed: 1, failed: 1 },
      });
      const [output, errors] = await Promise.all(
        [done.output_file_id, done.error_file_id].map(async (id) =>
          JSON.parse(await (await client.files.content(id!)).text()),
        ),
      );
      expect(output).toMatchObject({ custom_id: 'a', response: { status_code: 200 }, error: null });
      expect(errors).toMatchObject({ custom_id: 'b', response: { status_code: 400 }, error: null });
      const ids: string[] = [];
      for await (const batch of client.batches.list({ limit: 1 })) ids.push(batch.id);
      expect(ids).toContain(done.id);
    });

    it('are cancelled', async () => {
      const batch = await start(
        Array.from({ length: 200 }, (_, i) => ask(`c${i}`, { max_completion_tokens: 60 })),
      );
      expect((await m().client.batches.cancel(batch.id)).status).toBe('cancelling');
      expect((await ended(batch.id)).status).toBe('cancelled');
      await expect(m().client.batches.cancel(batch.id)).rejects.toMatchObject({ status: 409 });
    });
  });

  describe('graders', () => {
    type Grader = OpenAI.FineTuning.Alpha.GraderRunParams['grader'];
    const check: Grader = {
      type: 'string_check',
      name: 'check',
      input: '{{sample.output_text}}',
      reference: '{{item.answer}}',
      operation: 'ilike',
    };
    const near: Grader = {
      type: 'text_similarity',
      name: 'near',
      input: '{{sample.output_text}}',
      reference: '{{item.answer}}',
      evaluation_metric: 'fuzzy_match',
    };
    const judge: Grader = {
      type: 'score_model',
      name: 'judge',
      model: MODEL,
      input: [{ role: 'user', content: 'Rate {{sample.output_text}}' }],
      range: [0, 1],
      sampling_params: { temperature: 0, top_p: 1, seed: 1, max_completions_tokens: 200 },
    };

    it('run and validate every kind', async () => {
      const { graders } = m().client.fineTuning.alpha;
      const multi = {
        type: 'multi',
        name: 'both',
        graders: { check, near },
        calculate_output: '(check + near) / 2',
      } as unknown as Grader;
      for (const [grader, reward] of [
        [check, 1],
        [near, 1],
        [multi, 1],
      ] as const) {
        const run = await graders.run({ grader, model_sample: 'Paris', item: { answer: 'Paris' } });
        expect(run.reward).toBe(reward);
        expect(Object.values(run.metadata.errors).every((each) => each === false || each === null)).toBe(
          true,
        );
        expect((await graders.validate({ grader })).grader).toMatchObject({
          type: grader.type,
          name: grader.name,
        });
      }
    });

    it('ask the model', async () => {
      const run = await m().client.fineTuning.alpha.graders.run({ grader: judge, model_sample: 'Paris' });
      expect(run.metadata).toMatchObject({ name: 'judge', type: 'score_model', sampled_model_name: MODEL });
      expect(run.metadata.errors.model_grader_server_error).toBe(false);
      expect(run.reward).toBeGreaterThanOrEqual(0);
      expect(run.reward).toBeLessThanOrEqual(1);
    });

    it('refuse python by name', async () => {
      const grader: Grader = { type: 'python', name: 'p', source: 'def grade(sample, item): return 1.0' };
      const run = m().client.fineTuning.alpha.graders.run({ grader, model_sample: '' });
      await expect(run).rejects.toMatchObject({
        status: 400,
        param: 'grader.type',
        code: 'unsupported_value',
      });
    });
  });
}
