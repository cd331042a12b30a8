/**
 * The grammar matcher (xgrammar as WebAssembly) and the vocabulary in its terms. The package is a UMD file marked as an
 * ES module, so it is compiled here as the CommonJS module that it is. Knows no threads and no requests.
 */
import { readFileSync } from 'node:fs';
import Module, { createRequire } from 'node:module';
import path from 'node:path';
import type * as Library from '@mlc-ai/web-xgrammar';
import type { Tokenizer } from '../../engine/tokenizer/load.ts';

export type MatcherLibrary = typeof Library;

export function loadMatcherLibrary(): MatcherLibrary {
  const file = createRequire(import.meta.url).resolve('@mlc-ai/web-xgrammar');
  const module = new Module(file) as Module & { _compile(code: string, file: string, format: string): void };
  module.filename = file;
  module.paths = (Module as unknown as { _nodeModulePaths(directory: string): string[] })._nodeModulePaths(
    path.dirname(file),
  );
  module._compile(readFileSync(file, 'utf8'), file, 'commonjs');
  return module.exports as MatcherLibrary;
}

/**
 * Every token in the byte-level alphabet (one printable character per byte), whatever the tokenizer's own spelling is:
 * byte-level BPE and byte fallback become the same thing. Special tokens are empty, so a grammar never allows them;
 * the stop tokens are allowed where the grammar may end.
 */
export async function createTokenizerInfo(
  library: MatcherLibrary,
  tokenizer: Tokenizer,
): Promise<Library.TokenizerInfo> {
  const alphabet = byteAlphabet();
  const vocabulary = Array.from({ length: tokenizer.vocabSize }, (_, id) => {
    if (tokenizer.isSpecial(id)) return '';
    let spelled = '';
    for (const byte of tokenizer.tokenBytes(id)) spelled += alphabet[byte]!;
    return spelled;
  });
  const stops = tokenizer.eosIds.filter((id) => id < tokenizer.vocabSize);
  return library.TokenizerInfo.createTokenizerInfo(
    vocabulary,
    'byte_level',
    false,
    tokenizer.vocabSize,
    stops,
  );
}

/** The printable stand-in of each byte in byte-level vocabularies (GPT-2's table). */
function byteAlphabet(): string[] {
  const printable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let moved = 0;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(printable(byte) ? byte : 256 + moved++),
  );
}
