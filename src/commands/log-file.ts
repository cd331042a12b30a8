/**
 * The log file of a child process: opened to append, kept within a size also while the child writes on, and read from
 * its end. Knows nothing of the child.
 */
import {
  closeSync,
  copyFileSync,
  existsSync,
  fstatSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs';

const LOG_BYTES_MAX = 20 * 1024 * 1024;
/** Of a log's end: enough for a stack trace. */
const LAST_WORDS_BYTES = 64 * 1024;

/** A descriptor for a child's output; writes through it always go to the end of the file. */
export function openLogFile(file: string): number {
  trimLogFile(file);
  return openSync(file, 'a', 0o600);
}

/**
 * Moves the content of a log that has grown too large to `<file>.1`, in place of what was there. The file itself stays,
 * since a process may have it open; lines that are written in the middle of this are lost, and so is the content
 * where there is no room for a copy.
 */
export function trimLogFile(file: string, maxBytes = LOG_BYTES_MAX): void {
  if (!existsSync(file) || statSync(file).size <= maxBytes) return;
  try {
    copyFileSync(file, `${file}.1`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    rmSync(`${file}.1`, { force: true }); // half a copy, on a disk that needs the room
  }
  truncateSync(file);
}

/** What a log file says last, short enough for a terminal: the error of a stack trace, plain lines, or a message. */
export function lastWords(file: string): string {
  if (!existsSync(file)) return '(no log)';
  const lines = endOf(file)
    .split('\n')
    .filter((line) => /[A-Za-z]/.test(line));
  const plain = lines.slice(lines.findLastIndex((line) => line.startsWith('{')) + 1);
  const last = lines.at(-1) ?? '';
  const message = /"msg":"((?:[^"\\]|\\.)*)"/.exec(last)?.[1] ?? last;
  const words =
    plain.length === 0
      ? message
      : (plain.find((line) => /^\w*Error\b/.test(line)) ?? plain.slice(-3).join(' | '));
  return words.slice(0, 300);
}

function endOf(file: string): string {
  const descriptor = openSync(file, 'r');
  try {
    const { size } = fstatSync(descriptor);
    const bytes = Buffer.alloc(Math.min(size, LAST_WORDS_BYTES));
    const read = readSync(descriptor, bytes, 0, bytes.length, size - bytes.length);
    return bytes.toString('utf8', 0, read);
  } finally {
    closeSync(descriptor);
  }
}
