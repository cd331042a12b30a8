// The CUDA device of this machine for the numeric tests, or one line on standard error that says why there is none:
// what has not run is said, not passed over.
import { loadNative } from '../../native/index.ts';

export const cudaDevice = loadNative().cudaInfo();

if (!cudaDevice.available) process.stderr.write(`cuda: not tested here: ${cudaDevice.reason}\n`);
