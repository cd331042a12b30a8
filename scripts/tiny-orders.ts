/**
 * Writes the rows of the shipped example task to examples/data: train.jsonl, valid.jsonl and heldout.jsonl, and
 * preferences.jsonl, pairs of answers to the first training rows.
 * Run: node scripts/tiny-orders.ts [folder]
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { orderPairs, orderRows } from './tiny/orders.ts';

const folder = process.argv[2] ?? fileURLToPath(new URL('../examples/data', import.meta.url));
mkdirSync(folder, { recursive: true });
const orders = orderRows({ train: 400, valid: 60, heldout: 60 });
const files = { ...orders, preferences: orderPairs(orders.train.slice(0, 64)) };
for (const [name, rows] of Object.entries(files)) {
  writeFileSync(join(folder, `${name}.jsonl`), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
}
