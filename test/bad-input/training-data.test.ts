/**
 * Every entry of training-data.json: one bad row after ten good ones, and the fault that the job must report with its
 * line, code and field. The trainer's own check reads them.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadDataset } from '../../workers/engine/data/validate.ts';
import { alternating, chatRow, dataFile, plain, tiny } from '../engine/data/fixture.ts';

interface Case {
  name: string;
  /** The bad row, on line 11; text goes into the file as it is. */
  row?: unknown;
  /** Good rows instead, and what is special about them. */
  rows?: number;
  blank?: boolean;
  same?: boolean;
  /** Bad lines, all alike. */
  bad?: number;
  total?: number;
  method?: 'dpo';
  warns?: boolean;
  /** Another model than the shipped one: without a template, or with one that wants roles in turn. */
  model?: 'plain' | 'alternating';
  overlong?: 'error';
  /** Milliseconds, where the default is too generous. */
  within?: number;
  /** `*` is any; a code of null means that the file is fine. */
  expect: { code: string | null; param: string | null; line?: number | null } | null;
}

const GOOD = 10;
const TIME_MS = 5_000;
const TOKENIZERS = { tiny, plain, alternating };
const cases = JSON.parse(
  readFileSync(path.join(import.meta.dirname, 'training-data.json'), 'utf8'),
) as Case[];

const filled = (text: string) =>
  text.replace(/\{\{repeat:(.*?):(\d+)\}\}/gs, (_, part: string, count: string) =>
    part.repeat(Number(count)),
  );
const text = (row: unknown) => filled(typeof row === 'string' ? row : JSON.stringify(row));
const preference = (n: number) => ({
  input: { messages: [{ role: 'user', content: `Say ${n}.` }] },
  preferred_output: [{ role: 'assistant', content: `It is ${n}.` }],
  non_preferred_output: [{ role: 'assistant', content: 'No.' }],
});

function linesOf({ row, rows = GOOD, blank, same, bad = 0, method }: Case): string[] {
  const good = Array.from({ length: rows }, (_, i) =>
    JSON.stringify(method === 'dpo' ? preference(i) : chatRow(same ? 0 : i)),
  );
  if (blank) good.splice(5, 0, '');
  const rest = row === undefined ? [] : [text(row)];
  return [...good, ...rest, ...Array.from({ length: bad }, () => '{a:1}')];
}

const matches = (expected: string | null, got: string | null) => (expected?.endsWith('*') ? got : expected);

describe('bad training data', () => {
  it.each(cases.map((each) => [each.name, each] as const))('%s', async (_, each) => {
    const file = dataFile(linesOf(each).join('\n'));
    const started = performance.now();
    const { report } = await loadDataset(file, TOKENIZERS[each.model ?? 'tiny'], {
      ...{ maxLength: 512, overlong: each.overlong ?? 'truncate', minExamples: GOOD, what: 'Training file' },
      ...(each.method ? { method: each.method } : {}),
    });
    expect(performance.now() - started).toBeLessThan(each.within ?? TIME_MS);
    const [first] = report.errors;
    if (each.expect === null || each.expect.code === null) {
      expect(report.errors).toEqual([]);
      if (each.warns) expect(report.warnings.length).toBeGreaterThan(0);
      return;
    }
    const { code, param, line = GOOD + 1 } = each.expect;
    expect({ code: first?.code, param: first?.param, line: first?.line }).toEqual({
      code: matches(code, first?.code ?? null),
      param: matches(param, first?.param ?? null),
      line,
    });
    expect(first?.message).toMatch(/\w/);
    expect(first?.message.length).toBeLessThan(500);
    if (each.total) expect([report.errorsTotal, report.errors.length]).toEqual([each.total, 100]);
  });
});
