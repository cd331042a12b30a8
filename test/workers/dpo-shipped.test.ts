/**
 * Preference tuning of the shipped model by the default rule: on pairs it has not seen, the preferred answers' margin
 * rises from nothing. Twelve steps; about ten seconds on two quiet cores.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, expect, it, vi } from 'vitest';
import { PROJECT_ROOT } from '../../src/config.ts';
import { baseModels } from '../../src/db/schema.ts';
import { useTestService } from './service.ts';

vi.setConfig({ testTimeout: 300_000, hookTimeout: 120_000 });

const MODEL = path.join(PROJECT_ROOT, 'models', 'lathe-tiny');
const PAIRS = readFileSync(path.join(PROJECT_ROOT, 'examples', 'data', 'preferences.jsonl'), 'utf8');
const STEPS = 12;

const service = useTestService();
beforeAll(async () => {
  const config = JSON.parse(readFileSync(path.join(MODEL, 'config.json'), 'utf8')) as Record<string, unknown>;
  await service.database.db.insert(baseModels).values({
    ...{ id: 'lathe-tiny', location: MODEL, family: 'qwen3', parameterCount: 3_500_000 },
    ...{ contextLength: 512, config },
  });
});

it('the margin of the preferred answers rises on pairs that were not trained on', async () => {
  const lines = PAIRS.trimEnd().split('\n');
  const id = await service.createJob({
    model: 'lathe-tiny',
    method: 'dpo',
    training: `${lines.slice(0, 48).join('\n')}\n`,
    validation: `${lines.slice(48).join('\n')}\n`,
    hyperparameters: { n_epochs: 1, batch_size: 4 },
  });
  await service.runQueue({ config: { threads: 2 } });
  const { row, events } = await service.view(id);
  expect(row).toMatchObject({ status: 'succeeded', error: null, progress: { step: STEPS } });
  const before = events.find(({ message }) => message.startsWith('Before training'))!.data;
  const after = events.findLast(({ type }) => type === 'metrics')!.data as Record<string, number>;
  expect(before).toMatchObject({ 'full_valid_rewards/margins': 0, 'full_valid_rewards/accuracies': 0 });
  console.info(
    `margin 0 → ${after['full_valid_rewards/margins']!.toFixed(3)}, loss ${Math.log(2).toFixed(3)} → ${after.full_valid_loss!.toFixed(3)}, accuracy ${after['full_valid_rewards/accuracies']}`,
  );
  expect(after['full_valid_rewards/margins']).toBeGreaterThan(0.1);
  expect(after['full_valid_rewards/accuracies']).toBeGreaterThan(0.9);
  expect(after.full_valid_loss).toBeLessThan(0.65);
});
