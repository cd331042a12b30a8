/** Rows of the op suite for sanitizer.ts, under a tool that watches the device. argv: device kind, seconds at most. */
import { openDevice } from '../../workers/engine/device.ts';
import { runOps } from './op-suite.ts';

const [kind, seconds] = process.argv.slice(2);
const device = openDevice({ kind: kind === 'cuda' ? 'cuda' : 'cpu' });
console.log(JSON.stringify(runOps(device, Number(seconds) * 1000)));
process.exit();
