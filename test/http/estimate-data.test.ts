// /v1/fine_tuning/validate and /preview over real files and a real tokenizer thread.
import { describe, expect, it } from 'vitest';
import { TEN_ROWS } from '../helpers/app.ts';
import { useInspectedFiles } from './inspected-files.ts';

const { holder, there, startWorker, post, body, dpo } = useInspectedFiles();

describe('POST /v1/fine_tuning/validate', () => {
  it('reports format, counts, warnings and faults with their lines', async () => {
    const rows = TEN_ROWS.split('\n');
    const bad = await holder.upload([...rows, '', rows[0], '{"messages": 7}', '{"text": 1}'].join('\n'));
    const { status, json } = await post('validate', body({ training_file: bad }));
    expect(status).toBe(200);
    expect(json).toMatchObject({ object: 'fine_tuning.validation', valid: false, validation_file: null });
    expect(json.training_file).toMatchObject({ format: 'chat', examples: 11, rows: 13, errors_total: 2 });
    expect(json.training_file.errors).toMatchObject([
      { line: 13, code: 'invalid_type', param: 'messages' },
      { line: 14, code: 'invalid_training_file', param: null },
    ]);
    expect(json.training_file.warnings.map((w: { code: string }) => w.code)).toEqual([
      'blank_lines',
      'duplicate_examples',
    ]);
    expect((await post('validate', body())).json).toMatchObject({
      valid: true,
      training_file: { errors: [] },
    });
  });

  it('names the file that is in the format of another method, in the recorded words', async () => {
    const { json } = await post('validate', body({ ...dpo(), training_file: there.chat }));
    expect(json.training_file.errors).toEqual([
      {
        line: null,
        code: 'invalid_training_file',
        param: 'training_file',
        message: `Input file ${there.chat} is in the fine-tune-chat format, but the specified fine-tuning job is not using 'supervised' as the training method (provided method=dpo).`,
      },
    ]);
  });

  it('wants ten examples for training and one for validation', async () => {
    const few = await holder.upload(TEN_ROWS.split('\n').slice(0, 3).join('\n'));
    const { json } = await post('validate', body({ training_file: few, validation_file: there.chat }));
    expect(json.training_file.errors[0].message).toBe(
      'Training file has 3 example(s), but must have at least 10 examples',
    );
    expect((await post('validate', body({ validation_file: few }))).json.valid).toBe(true);
  });
});

describe('POST /v1/fine_tuning/preview', () => {
  it('shows the tokens of a row, each learned or not', async () => {
    const { status, json } = await post('preview', body({ line: 3, count: 2 }));
    expect(status).toBe(200);
    expect(json.data.map((row: { line: number }) => row.line)).toEqual([3, 4]);
    const [sequence] = json.data[0].sequences;
    expect(sequence).toMatchObject({ name: 'example', truncated: false });
    const texts = (learned: boolean) =>
      sequence.tokens
        .filter((token: { learned: boolean }) => token.learned === learned)
        .map((token: { text: string }) => token.text)
        .join('');
    expect(texts(true)).toBe('Answer 2.<|im_end|>');
    expect(texts(false)).toContain('Question 2?');
    expect(sequence.tokens_total).toBe(sequence.tokens.length);
  });

  it('shows both answers of a pair, and the faults of a bad row', async () => {
    const { json } = await post('preview', body(dpo()));
    expect(json.data).toHaveLength(1);
    expect(json.data[0].format).toBe('preference');
    const learned = json.data[0].sequences.map(
      (s: { name: string; tokens: { text: string; learned: boolean }[] }) => [
        s.name,
        s.tokens
          .filter((token) => token.learned)
          .map((token) => token.text)
          .join(''),
      ],
    );
    expect(learned).toEqual([
      ['preferred_output', 'Yes.<|im_end|>'],
      ['non_preferred_output', 'I would not say so.<|im_end|>'],
    ]);
    const wrong = await post('preview', body({ training_file: there.pairs }));
    expect(wrong.json.data[0]).toMatchObject({ sequences: [], errors: [{ code: 'invalid_training_file' }] });
    expect((await post('preview', body({ line: 11 }))).json.data).toEqual([]);
  });

  it.each([
    ['line 0', { line: 0 }, 'line'],
    ['21 rows', { count: 21 }, 'count'],
  ])('refuses %s', async (_name, change, param) => {
    const { status, json } = await post('preview', body(change));
    expect([status, json.error.param]).toEqual([400, param]);
  });
});

describe('without a worker', () => {
  it('answers 503 with retry-after', async () => {
    await there.worker.stop();
    const { status, json, headers } = await post('validate', body());
    expect([status, json.error.code]).toEqual([503, 'model_unavailable']);
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
    there.worker = await startWorker();
  });
});
