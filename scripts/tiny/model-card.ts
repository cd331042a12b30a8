/** The README of models/lathe-tiny, with the figures of the training run that made the weights. */
import type { ProbeResult } from './probe.ts';

export interface CardFigures {
  /** Rows of training-log.csv, the header first. */
  log: readonly string[];
  probe: ProbeResult;
  steps: number;
  /** The cosine's horizon, and the step from which the rate falls linearly to 0. */
  schedule: { cosineSteps: number; coolFrom: number };
  parameters: number;
}

const kinds: Record<string, string> = {
  town: 'facts of the town (learned by heart)',
  general: 'general facts: opposites, calendar, small sums',
  unknown: 'says so when it does not know somebody',
  reading: 'finds the answer in a passage given in the prompt',
  copying: 'copies words and ids that it never saw',
  formats: 'reads and writes records, lists, small JSON',
  orders: 'the example task of examples/data, before fine-tuning',
};

/** About a dozen rows of the loss curve, evenly spread, the first and the last among them. */
function curve(log: readonly string[]): string {
  const rows = log.slice(1);
  const picked = Array.from({ length: 12 }, (_, i) => rows[Math.round((i * (rows.length - 1)) / 11)]!);
  return [...new Set(picked)]
    .map((row) => {
      const [step, tokens, loss, accuracy] = row.split(',');
      return `| ${step} | ${(Number(tokens) / 1e6).toFixed(2)} M | ${loss} | ${(100 * Number(accuracy)).toFixed(1)} % |`;
    })
    .join('\n');
}

export function modelCard({ log, probe, steps, schedule, parameters }: CardFigures): string {
  const scores = Object.entries(probe.exact)
    .map(([kind, share]) => `| ${kind} | ${kinds[kind]} | ${(100 * share).toFixed(1)} % |`)
    .join('\n');
  const millions = (parameters / 1e6).toFixed(2);
  const trained = log[log.length - 1]!.split(',');
  return `# lathe-tiny

A very small chat model that comes with Lathe, so that the whole path from training file to tuned model runs on a laptop
in minutes. It knows one invented town, Larkfield: its people, pets and shops, and a little about days, months, numbers
and opposites. It has some practice in finding an answer in a short passage and in writing small records.

## Architecture
Qwen3 (\`Qwen3ForCausalLM\`): ${millions} M parameters, 4 layers, hidden size 256, 4 query and 2 key/value heads of 64, SwiGLU 704,
tied embeddings, context 2048, bf16. Byte-level BPE with 2048 tokens, ChatML template without a default system prompt.

## Data
Every training sample is written by \`scripts/tiny/\` from word lists and a seed: no text from outside, nothing personal,
nothing licensed by others. A fifth of the samples are questions about the town and general facts, a third are
passages with random facts and questions about them, the rest is copying, records, lists, JSON and plain passages. System prompts are rare
(4 % of the samples), so the model follows them only weakly; that is left for fine-tuning to teach. The rows of
\`examples/data\` are not part of the training.

## Training
By Lathe's own engine: ${steps} steps, ${(Number(trained[1]) / 1e6).toFixed(1)} M tokens (packs of 2048), AdamW (0.9, 0.98), weight decay 0.01, peak rate 3e-3
with 100 steps of warm-up, cosine decay (horizon ${schedule.cosineSteps} steps),
linear to 0 over the last ${steps - schedule.coolFrom} steps, gradient norm clipped at 1, bf16 weights with f32 masters.
Loss is taken on answers and plain passages, and on the questions too in 30 % of the conversations (they hold random facts, so the loss cannot reach 0).

| step | tokens | training loss | token accuracy |
|---:|---:|---:|---:|
${curve(log)}

The whole curve is in \`training-log.csv\`. To train it again (AVX-512 gives these bytes again, \`--isa avx2\`
others of the same kind; a quarter of an hour on two cores):

    node_modules/.bin/node scripts/tiny-tokenizer.ts
    npm run pretrain:tiny

## What it can do
Greedy decoding, whole answer exactly right, 200 fresh prompts of each kind (60 orders):

| kind | what | exact |
|---|---|---:|
${scores}

## Limits
It knows nothing but its town, in English of about 700 words. It invents answers outside of it, cannot reason over several
steps, and makes mistakes with long or unusual words. It is a demonstration and a test model, not an assistant.
`;
}
