/** Model folders written for one test, and the shipped one. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const tinyFolder = fileURLToPath(new URL('../../../models/lathe-tiny', import.meta.url));

/** The parts of tokenizer.json that tests change. */
export interface TokenizerJson {
  added_tokens: { id: number; content: string; special?: boolean }[];
  normalizer: object | null;
  pre_tokenizer: object;
  post_processor: object | null;
  decoder: object;
  model: {
    type: string;
    vocab: Record<string, number> | undefined;
    merges: string[][];
    byte_fallback?: boolean;
  };
}

/** The 256 byte tokens, one merge, and two special tokens; `change` edits the file before it is written. */
export function byteTokenizer(change: (json: TokenizerJson) => void = () => {}): TokenizerJson {
  const visible = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  let moved = 0;
  const vocab: Record<string, number> = {};
  for (let b = 0; b < 256; b++) vocab[String.fromCharCode(visible(b) ? b : 256 + moved++)] = b;
  vocab.th = 256;
  const special = (id: number, content: string, isSpecial = true) => ({
    id,
    content,
    special: isSpecial,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  });
  const json: TokenizerJson = {
    added_tokens: [
      special(257, '<|im_start|>'),
      special(258, '<|im_end|>'),
      special(259, '<think>', false),
      special(260, '</think>', false),
    ],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges: [['t', 'h']] },
  };
  change(json);
  return json;
}

/** A folder with tokenizer.json and, when given, a chat template. */
export function modelFolder(
  tokenizer: TokenizerJson,
  template?: string,
  config: object = { eos_token: '<|im_end|>' },
): string {
  const dir = mkdtempSync(join(tmpdir(), 'lathe-tokenizer-'));
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify(config));
  if (template !== undefined) writeFileSync(join(dir, 'chat_template.jinja'), template);
  return dir;
}

/** ChatML, with Qwen3's habit: only the last answer carries a thinking block. */
export const thinkingTemplate = `{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}`;
