/** `lathe sweep`: removes, once, what nobody needs any more. */
import type { Config } from '../config.ts';
import type { Database } from '../db/client.ts';
import { sweepOnce } from '../domain/sweep/run.ts';
import { createLog } from '../log.ts';
import { openStorage } from '../storage/open.ts';

/** What was removed, a line each, and the exit code: 1 when a sweep failed. */
export async function sweepCommand(
  config: Config,
  database: Database,
): Promise<{ text: string; exitCode: number }> {
  const storage = await openStorage(config);
  const log = createLog({ level: 'silent', name: 'sweep' });
  const report = await sweepOnce({ config, database, storage, log });
  if (!report.ran) return { text: 'Another process is sweeping right now.', exitCode: 0 };
  const removed = Object.entries(report.removed).map(([name, count]) => `${count}\t${name}`);
  const failed = Object.entries(report.failed).map(([name, why]) => `failed\t${name}: ${why}`);
  const lines = [...removed, ...failed];
  return { text: lines.join('\n') || 'There was nothing to remove.', exitCode: failed.length > 0 ? 1 : 0 };
}
