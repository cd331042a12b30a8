/** A process that commits a checkpoint folder with a failpoint armed: `commit-and-die.ts <root> <failpoint>`. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { commitFolder } from '../../workers/trainer/checkpoint.ts';
import { Failpoints, parseFailpoint } from '../../workers/trainer/failpoints.ts';

const [root, failpoint] = process.argv.slice(2) as [string, string];
const fill = async (dir: string) => writeFileSync(path.join(dir, 'adapter_model.safetensors'), 'weights');
await commitFolder(path.join(root, 'ckpt-3'), 3, fill, new Failpoints([parseFailpoint(failpoint)], 1));
