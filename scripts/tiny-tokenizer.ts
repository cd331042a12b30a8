/**
 * Writes the text side of models/lathe-tiny: tokenizer.json, tokenizer_config.json, chat_template.jinja, config.json and
 * generation_config.json. The tokenizer is learned from the first samples of the corpus; same seed, same bytes.
 * Run: node scripts/tiny-tokenizer.ts [folder]
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { byteAlphabet, learnMerges, splitPattern } from './tiny/bpe.ts';
import { corpus } from './tiny/corpus.ts';

const vocabSize = 2048;
const sampleCount = 60_000;
const specials = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];

const chatTemplate = `{%- if tools %}
    {{- '<|im_start|>system\\nTools:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {{- message.content }}
    {%- if message.tool_calls %}
        {%- if message.content %}{{- '\\n' }}{%- endif %}
        {%- for call in message.tool_calls %}
            {{- 'call ' + call.function.name + ' ' + (call.function.arguments | tojson) }}
            {%- if not loop.last %}{{- '\\n' }}{%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
`;

function* corpusTexts(): Generator<string> {
  let left = sampleCount;
  for (const sample of corpus(1)) {
    if (left-- === 0) break;
    if ('text' in sample) yield sample.text;
    else for (const message of sample.messages) yield `${message.role}\n${message.content}\n`;
  }
}

function tokenizerJson(): object {
  const merges = learnMerges(corpusTexts(), vocabSize - 256 - specials.length);
  const tokens = [...byteAlphabet(), ...merges.map(([left, right]) => left + right)];
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  if (Object.keys(vocab).length !== tokens.length) throw new Error('two merges give the same token');
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specials.map((content, i) => ({
      id: tokens.length + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: splitPattern }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

const config = {
  architectures: ['Qwen3ForCausalLM'],
  attention_bias: false,
  attention_dropout: 0,
  bos_token_id: vocabSize - 3,
  eos_token_id: vocabSize - 1,
  head_dim: 64,
  hidden_act: 'silu',
  hidden_size: 256,
  initializer_range: 0.02,
  intermediate_size: 704,
  max_position_embeddings: 2048,
  max_window_layers: 4,
  model_type: 'qwen3',
  num_attention_heads: 4,
  num_hidden_layers: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 10000,
  sliding_window: null,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  use_cache: true,
  use_sliding_window: false,
  vocab_size: vocabSize,
};

const tokenizerConfig = {
  add_bos_token: false,
  add_prefix_space: false,
  bos_token: null,
  clean_up_tokenization_spaces: false,
  eos_token: '<|im_end|>',
  model_max_length: 2048,
  pad_token: '<|endoftext|>',
  tokenizer_class: 'PreTrainedTokenizerFast',
  unk_token: null,
};

const generationConfig = {
  do_sample: false,
  eos_token_id: [vocabSize - 1, vocabSize - 3],
  pad_token_id: vocabSize - 3,
};

const folder = process.argv[2] ?? fileURLToPath(new URL('../models/lathe-tiny', import.meta.url));
mkdirSync(folder, { recursive: true });
const json = (value: object, indent?: number) => `${JSON.stringify(value, null, indent)}\n`;
writeFileSync(join(folder, 'tokenizer.json'), json(tokenizerJson(), 1));
writeFileSync(join(folder, 'tokenizer_config.json'), json(tokenizerConfig, 2));
writeFileSync(join(folder, 'chat_template.jinja'), chatTemplate);
writeFileSync(join(folder, 'config.json'), json(config, 2));
writeFileSync(join(folder, 'generation_config.json'), json(generationConfig, 2));
