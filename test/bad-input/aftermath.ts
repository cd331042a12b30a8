/** What holds after every bad input: the service answers as fast as before, and the refusal shows nothing of its inside. */
import { expect } from 'vitest';
import type { Answer, TestApp } from '../helpers/app.ts';

const HEALTH_MS = 100;
/** What an answer must never show: stacks, folders of the server, statements, drivers. */
const INSIDE =
  /\bat \S+ \(|\.ts:\d|node_modules|\/(home|root|tmp|usr)\/|\b(select|insert into) .{0,80}(from|values) |drizzle/i;

/** /healthz within 100 ms: the better of two, since anything may run beside the tests. */
export async function expectHealthy(t: Pick<TestApp, 'call'>): Promise<void> {
  const times: number[] = [];
  for (let i = 0; i < 2; i++) {
    const asked = performance.now();
    expect((await t.call('GET', '/healthz')).status).toBe(200);
    times.push(performance.now() - asked);
  }
  expect(Math.min(...times)).toBeLessThan(HEALTH_MS);
}

export function expectNothingShown(text: string): void {
  expect(text).not.toMatch(INSIDE);
}

/** Level 50 is an error nobody expected: bad input is never one. */
export function expectNoErrorsLogged({ logged }: Pick<TestApp, 'logged'>): void {
  expect(logged.filter((line) => line.includes('"level":50'))).toEqual([]);
}

/** A refusal in the envelope of all errors, never a 5xx. */
export function expectRefusal(
  answer: Pick<Answer, 'status' | 'json' | 'text'>,
  expected: { status: number; code: string | null; param: string | null },
): void {
  const { code, param, message } = answer.json.error;
  expect({ status: answer.status, code, param }).toEqual(expected);
  expect(answer.status).toBeLessThan(500);
  expect(message).toMatch(/\w/);
  expectNothingShown(answer.text);
}
