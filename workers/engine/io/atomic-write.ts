/** Small text files that are either the old or the new version after a crash, never half of one. */
import { closeSync, fsyncSync, openSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** Writes `value` as indented JSON with a final newline: temporary file, fsync, rename. Keys keep their order. */
export function writeJson(path: string, value: unknown): void {
  const temporary = `${path}.partial`;
  const file = openSync(temporary, 'w');
  try {
    writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
  syncDirectory(dirname(path));
}

/** Makes a rename in `dir` durable. */
export function syncDirectory(dir: string): void {
  const handle = openSync(dir, 'r');
  fsyncSync(handle);
  closeSync(handle);
}
