/**
 * One training step in a fresh process, for memory.ts: prints what was estimated and the peak that the device's pool saw,
 * as JSON. argv: device kind, shape, rank, sequences, length, whether blocks are computed again.
 */
import { openDevice } from '../../workers/engine/device.ts';
import { estimatedBytes, estimateMemory } from '../../workers/engine/models/memory-estimate.ts';
import { shape } from '../shapes.ts';
import { loraBench, randomBatch } from '../training.ts';

const [kind, name, r, sequences, length, recompute] = process.argv.slice(2) as string[];
const device = openDevice({ kind: kind === 'cuda' ? 'cuda' : 'cpu' });
const isRecomputed = recompute === 'true';
const bench = loraBench(device, shape(name!), 'bf16', Number(r), { recompute: isRecomputed });
const lengths = Array<number>(Number(sequences)).fill(Number(length));
const batch = randomBatch(bench.model.config.vocabSize, lengths, 1);
const { config, dtype, activationDtype } = bench.model;
const tokens = Number(sequences) * Number(length);
const estimate = estimateMemory(config, dtype, activationDtype, bench.counts, false, tokens, device.kind);
// Two steps: the second one is the one that lasts.
for (let step = 0; step < 2; step++) bench.step(step, [batch]);
const { peak } = device.memory();
console.log(JSON.stringify({ estimated: estimatedBytes(estimate, isRecomputed), peak }));
process.exit();
