import { describe, expect, it } from 'vitest';
import type { ClaimedJob } from '../../src/queue/queue.ts';
import { modelName } from '../../workers/trainer/settings.ts';

const jobWith = (suffix: string | null) =>
  ({ job: { model: 'Qwen/tiny', suffix }, organizationSlug: 'acme' }) as unknown as ClaimedJob;

describe('the name of a model', () => {
  it('holds the suffix, or nothing in its place', () => {
    expect(modelName(jobWith('orders_v1.2'), '9ABel2dg')).toBe('ft:Qwen/tiny:acme:orders_v1.2:9ABel2dg');
    expect(modelName(jobWith(null), '9ABel2dg', 20)).toBe('ft:Qwen/tiny:acme::9ABel2dg:ckpt-step-20');
  });

  it.each([
    ['my orders', 'my-orders'],
    ['a:b/c', 'a-b-c'],
    [' (spring)  2026! ', 'spring-2026'],
    ['Übung', 'bung'],
    ['日本語', ''],
    ['%2e?#', '2e'],
  ])('makes %j safe: %j', (suffix, segment) => {
    expect(modelName(jobWith(suffix), 'x')).toBe(`ft:Qwen/tiny:acme:${segment}:x`);
  });
});
