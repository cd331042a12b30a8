/**
 * node-llama-cpp as a peer (see peer-process.ts): `node llama.mjs --package DIR --model FILE.gguf --threads N`. Runs
 * `{"what": "logits", "tokens": […]}`, `{"what": "prefill", "tokens": […]}` (to the first greedy token) and
 * `{"what": "decode", "tokens": […], "steps": n}` (n greedy tokens after the prompt and one more, which are not timed).
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const { values: args } = parseArgs({
  options: {
    package: { type: 'string' },
    model: { type: 'string' },
    threads: { type: 'string' },
    context: { type: 'string', default: '512' },
  },
});
const require = createRequire(path.join(args.package, 'package.json'));
const { getLlama, getModuleVersion } = await import(pathToFileURL(require.resolve('node-llama-cpp')).href);

// Only answers go to stdout; what the library says goes to stderr.
const llama = await getLlama({
  gpu: false,
  build: 'never',
  maxThreads: 0,
  logger: (level, text) => process.stderr.write(`${level}: ${text}\n`),
});
const model = await llama.loadModel({ modelPath: args.model, gpuLayers: 0 });
const context = await model.createContext({
  contextSize: Number(args.context),
  batchSize: Number(args.context),
  threads: Number(args.threads),
});
const sequence = context.getSequence();
const GREEDY = { temperature: 0 };
const since = (start) => (performance.now() - start) / 1000;

/** log softmax of the next token after `tokens`, by token id. */
async function logits(tokens) {
  await sequence.clearHistory();
  const start = performance.now();
  const input = tokens.map((token, i) =>
    i + 1 < tokens.length ? token : [token, { generateNext: { probabilities: true, token: true } }],
  );
  const found = await sequence.controlledEvaluate(input);
  const { probabilities, token } = found[tokens.length - 1].next;
  const logprobs = new Array(probabilities.size);
  for (const [id, p] of probabilities) logprobs[id] = Math.log(p);
  return { seconds: since(start), token, logprobs };
}

async function prefill(tokens) {
  await sequence.clearHistory();
  const start = performance.now();
  const { value: token } = await sequence.evaluate(tokens, GREEDY).next();
  return { seconds: since(start), token };
}

async function decode(tokens, steps) {
  await sequence.clearHistory();
  const generated = sequence.evaluate(tokens, GREEDY);
  const first = (await generated.next()).value;
  const drawn = [];
  const start = performance.now();
  for (let i = 0; i < steps; i++) drawn.push((await generated.next()).value);
  const seconds = since(start);
  await generated.return();
  return { seconds, tokens: [first, ...drawn] };
}

const runs = { logits, prefill, decode };
const answer = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
answer({
  ready: true,
  version: await getModuleVersion(),
  llama_cpp: llama.llamaCppRelease?.release,
  threads: context.currentThreads,
});
for await (const line of createInterface({ input: process.stdin })) {
  const { run } = JSON.parse(line);
  try {
    answer(await runs[run.what](run.tokens, run.steps));
  } catch (error) {
    answer({ error: String(error) });
  }
}
