/** Data files written for one test, and the shipped tokenizer. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadTokenizer } from '../../../workers/engine/tokenizer/load.ts';
import { byteTokenizer, modelFolder, tinyFolder } from '../tokenizer/fixture.ts';

export const tiny = loadTokenizer(tinyFolder);

/** A model without a chat template: bytes, one merge, end token 258. */
export const plain = loadTokenizer(modelFolder(byteTokenizer()));

const ALTERNATING =
  "{% for m in messages %}{% if m.role != ['user','assistant'][loop.index0 % 2] %}{{ raise_exception('roles must alternate') }}{% endif %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** A model whose template refuses two messages of one role in a row. */
export const alternating = loadTokenizer(modelFolder(byteTokenizer(), ALTERNATING));

const folder = mkdtempSync(join(tmpdir(), 'lathe-data-'));
let count = 0;

/** Writes text, bytes or rows (one JSON line each) to a new file and returns its path. */
export function dataFile(content: string | Uint8Array | readonly unknown[]): string {
  const path = join(folder, `${count++}.jsonl`);
  const lines = Array.isArray(content) ? content.map((row) => `${JSON.stringify(row)}\n`).join('') : content;
  writeFileSync(path, lines as string | Uint8Array);
  return path;
}

/** A valid chat row; `n` makes it different from others. */
export function chatRow(n: number | string = 0) {
  return {
    messages: [
      { role: 'user', content: `How old is person ${n}?` },
      { role: 'assistant', content: `Person ${n} is old.` },
    ],
  };
}

export const tenRows = Array.from({ length: 10 }, (_, i) => chatRow(i));
