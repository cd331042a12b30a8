import { describe, expect, it, vi } from 'vitest';
import { type JobView, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every job starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 });

const service = useTestService();

const messages = (view: JobView) => view.events.map((e) => e.message);

describe('rows that are too long', () => {
  const long = JSON.stringify({
    messages: [
      { role: 'user', content: 'Count' },
      { role: 'assistant', content: 'one two three '.repeat(100) },
    ],
  });

  it('are cut with a warning, left out, or refused, as asked', async () => {
    const training = `${chatLines(11)}${long}\n`;
    const ran = async (overlong: string) =>
      service.run({ training, trainer: { max_steps: 1, max_length: 64, overlong } });
    const [cut, dropped, refused] = [await ran('truncate'), await ran('drop'), await ran('error')];
    const warnings = (view: JobView) => view.events.filter((e) => e.level === 'warn').map((e) => e.message);
    expect(warnings(cut)).toEqual([
      'Training file: 1 examples were cut off at the end to fit the maximum length',
    ]);
    expect(warnings(dropped)).toEqual([
      'Training file: 1 examples were left out because they are longer than the maximum length',
    ]);
    expect([cut.row.status, dropped.row.status]).toEqual(['succeeded', 'succeeded']);
    expect(refused.row).toMatchObject({
      status: 'failed',
      error: { code: 'invalid_training_file', param: 'training_file' },
    });
    expect(refused.row.error!.message).toContain('Line 12');
  });
});

describe('auto', () => {
  it('is resolved by the rule and written back', async () => {
    const view = await service.run({ training: chatLines(40), trainer: { max_steps: 2 } });
    expect(view.row.method).toEqual({
      type: 'supervised',
      supervised: { hyperparameters: { n_epochs: 10, batch_size: 1, learning_rate_multiplier: 1 } },
    });
    expect(view.row).toMatchObject({
      status: 'succeeded',
      progress: { step: 2, total_steps: 2 },
      suffix: null,
    });
    expect(view.row.fineTunedModel).toMatch(/^ft:tiny\/random:acme::\w{8}$/);
    expect(view.row.trainer).toMatchObject({ learning_rate: 0.002, max_length: 128, warmup_ratio: 0.03 });
  });
});

describe('bad data', () => {
  it('fails with every line named, first the events, then the error', async () => {
    const lines = chatLines(12).split('\n');
    lines[2] = '{"messages": [{"role": "bot", "content": "x"}, {"role": "assistant", "content": "y"}]}';
    lines[6] = 'not json';
    const view = await service.run({ training: lines.join('\n') });
    const { row } = view;
    expect(row).toMatchObject({ status: 'failed', startedAt: null, workerId: null, fineTunedModel: null });
    expect(row.error).toEqual({
      code: 'invalid_training_file',
      message: messages(view).at(-1),
      param: 'training_file',
    });
    expect(row.error!.message).toMatch(
      /^The job failed due to an invalid training file\. Invalid file format\. Line 3, messages\[0\]/,
    );
    const errors = view.events.filter((e) => e.level === 'error');
    expect(errors.slice(0, -1).map((e) => (e.data as { line: number }).line)).toEqual([3, 7]);
    expect(errors[0]!.message).toMatch(/^Training file, line 3/);
    expect(messages(view)).not.toContain('Files validated, moving job to queued state');
    expect(view.models).toEqual([]);
  });

  it('names the validation file when that is the bad one', async () => {
    const view = await service.run({ training: chatLines(12), validation: 'oops\n' });
    expect(view.row.error).toMatchObject({ code: 'invalid_validation_file', param: 'validation_file' });
  });

  it('lists the first hundred errors and counts the rest', async () => {
    const view = await service.run({ training: 'x\n'.repeat(250) });
    const errors = view.events.filter((e) => e.level === 'error').map((e) => e.message);
    expect(errors).toHaveLength(102);
    expect(errors[100]).toBe('Training file: and 150 more errors');
    expect(view.row.error!.message).toContain('(and 249 more, see the events of this job)');
  });

  it("refuses fewer than ten examples in OpenAI's words", async () => {
    const view = await service.run({ training: chatLines(7) });
    expect(view.row.error).toEqual({
      code: 'invalid_n_examples',
      message: 'Training file has 7 example(s), but must have at least 10 examples',
      param: 'training_file',
    });
  });

  it('fails when the bytes in storage are not what was uploaded', async () => {
    const id = await service.createJob({ training: chatLines(12) });
    const { row } = await service.view(id);
    await service.storage.put(
      `projects/${service.projectId}/files/${row.trainingFile}`,
      Buffer.from(chatLines(12, 1)),
    );
    await service.runQueue();
    expect((await service.view(id)).row).toMatchObject({
      status: 'failed',
      error: { code: 'invalid_training_file' },
    });
  });
});
