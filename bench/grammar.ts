/**
 * Constrained decoding on the shipped model: random schemas × seeds, every answer checked by an independent validator,
 * and what a token costs under a grammar against the same batch without one, measured in turns in the same run.
 */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { schemaGrammar } from '../src/inference/grammar/json-schema.ts';
import type { WireSampling } from '../src/inference/protocol.ts';
import { Engine } from '../workers/inference/engine.ts';
import { Grammars } from '../workers/inference/grammar/grammars.ts';
import type { CompiledGrammar } from '../workers/inference/grammar/messages.ts';
import { PromptThread } from '../workers/inference/prompts.ts';
import { GREEDY } from './decoding.ts';
import { machine, median, options, peakRssMib, round } from './options.ts';
import { randomSchema } from './random-schema.ts';

const MODEL = path.join(import.meta.dirname, '..', 'models', 'lathe-tiny');
const BATCH = 8;

const sampling: WireSampling = { ...GREEDY, temperature: 1 };

interface Said {
  text: string;
  reason: string;
  tokens: number;
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { schemas: 300, seeds: 3, tokens: 256, rounds: 9 });
  const engine = await Engine.start(
    {
      modelDirectory: MODEL,
      device: 'cpu',
      threads: availableParallelism(),
      kvCacheBytes: 0,
      blockSize: 16,
      prefixCache: true,
      maxRunning: BATCH,
      maxAdapters: 1,
      tokenBudget: 256,
    },
    (error) => {
      throw error;
    },
  );
  const grammars = new Grammars({
    modelDirectory: MODEL,
    threads: 1,
    deadlineMilliseconds: 120_000,
    connect: (thread, port) => engine.connectGrammars(thread, port),
  });
  const prompts = new PromptThread(MODEL, 60_000);
  const prompt = await prompts.render([{ role: 'user', content: 'Write something.' }], null);
  const say = (
    grammar: CompiledGrammar | null,
    seed: number,
    how: Partial<WireSampling> = {},
  ): Promise<Said> =>
    new Promise((resolve, reject) => {
      const said: Said = { text: '', reason: '', tokens: 0 };
      const asked = { ...sampling, ...how };
      const request = {
        prompt,
        adapter: null,
        fullModel: null,
        cacheSalt: '',
        sampling: asked,
        seed,
        grammar,
      };
      engine.generate({ ...request, scorePrompt: null }, (event) => {
        if (event.type === 'delta') said.text += event.text;
        else if (event.type === 'finish') said.reason = event.reason;
        else if (event.type === 'error') reject(new Error(event.error.message));
        else if (event.type === 'done') resolve({ ...said, tokens: event.completion_tokens });
      });
    });
  const compile = (schema: unknown) =>
    grammars.compile({ kind: 'ebnf', text: schemaGrammar(schema) }, 'schema');

  const validity = await checkSchemas(o.schemas, o.seeds, compile, say);
  const cost = await costOfToken(o.tokens, o.rounds, compile, say);
  await Promise.all([engine.close(), grammars.close(), prompts.close()]);
  return { ...o, ...machine(), ...validity, ...cost, peak_rss_mib: peakRssMib() };
}

type Say = (grammar: CompiledGrammar | null, seed: number, how?: Partial<WireSampling>) => Promise<Said>;
type Compile = (schema: unknown) => Promise<CompiledGrammar>;

/** Every schema with every seed; the first answers that are not valid are shown. */
async function checkSchemas(schemas: number, seeds: number, compile: Compile, say: Say) {
  const ajv = new Ajv2020({ strict: false, logger: false });
  const compileMilliseconds: number[] = [];
  const failures: unknown[] = [];
  let valid = 0;
  let cut = 0;
  let tokens = 0;
  const one = async (number: number): Promise<void> => {
    const schema = randomSchema(number);
    const started = performance.now();
    const grammar = await compile(schema);
    compileMilliseconds.push(performance.now() - started);
    const validate = ajv.compile(schema);
    const answers = await Promise.all(Array.from({ length: seeds }, (_, seed) => say(grammar, seed)));
    for (const [seed, { text, reason, tokens: count }] of answers.entries()) {
      tokens += count;
      if (reason === 'length') cut++;
      if (isValid(validate, text)) valid++;
      else failures.push({ schema: number, seed, reason, text: text.slice(0, 200) });
    }
  };
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < schemas) await one(next++);
  };
  await Promise.all([worker(), worker()]);
  return {
    answers: schemas * seeds,
    valid,
    cut_by_length: cut,
    answer_tokens: tokens,
    compile_ms_median: round(median(compileMilliseconds)),
    compile_ms_max: round(Math.max(...compileMilliseconds)),
    first_failures: failures.slice(0, 3),
  };
}

function isValid(validate: (value: unknown) => boolean, text: string): boolean {
  try {
    return validate(JSON.parse(text));
  } catch {
    return false;
  }
}

/** A batch of free answers and a batch under a schema in turns; greedy, of equal length, none ends by itself. */
async function costOfToken(tokens: number, rounds: number, compile: Compile, say: Say) {
  const text = { type: 'string', minLength: 1 };
  const record = {
    type: 'object',
    properties: { note: text, count: { type: 'integer' } },
    required: ['note', 'count'],
  };
  const grammar = await compile({ type: 'array', items: record, minItems: 500 });
  const ends = { '2047': -100, '2045': -100 };
  const batch = async (under: CompiledGrammar | null): Promise<number> => {
    const started = performance.now();
    const how = { temperature: 0.8, max_tokens: tokens, logit_bias: ends };
    const said = await Promise.all(Array.from({ length: BATCH }, (_, seed) => say(under, seed, how)));
    return (performance.now() - started) / said.reduce((sum, answer) => sum + answer.tokens, 0);
  };
  await batch(null);
  await batch(grammar);
  const free: number[] = [];
  const bound: number[] = [];
  for (let i = 0; i < rounds; i++) {
    free.push(await batch(null));
    bound.push(await batch(grammar));
  }
  const ratios = bound.map((value, i) => value / free[i]!);
  return {
    batch: BATCH,
    free_ms_per_token: round(median(free)),
    constrained_ms_per_token: round(median(bound)),
    cost_ratio: round(median(ratios)),
  };
}
