/**
 * The thread that matches grammars: compiles them when the HTTP side asks, and for every constrained choice follows the
 * tokens and writes the mask of the next ones into shared memory while the engine runs the model.
 * An abort of the WebAssembly module leaves it in no state to trust, so the thread ends then and is replaced.
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import type { CompiledGrammar, GrammarMatcher } from '@mlc-ai/web-xgrammar';
import { loadTokenizer } from '../../engine/tokenizer/load.ts';
import { createTokenizerInfo, loadMatcherLibrary } from './matcher-library.ts';
import {
  BROKEN,
  type EngineStep,
  type FromGrammarThread,
  type GrammarSource,
  MASK_OFFSET,
  REFUSED,
  type ToGrammarThread,
} from './messages.ts';

const COMPILED_MAX = 64;

const { modelDirectory } = workerData as { modelDirectory: string };
const port = parentPort!;
const send = (message: FromGrammarThread): void => port.postMessage(message);

const library = loadMatcherLibrary();
const tokenizerInfo = await createTokenizerInfo(library, loadTokenizer(modelDirectory));
// Its own cache is unbounded; ours is below.
const compiler = await library.GrammarCompiler.createGrammarCompiler(tokenizerInfo, false);

interface State {
  matcher: GrammarMatcher;
  shared: Int32Array;
}
/** Least recently used first. */
const compiled = new Map<string, CompiledGrammar>();
const states = new Map<number, State>();

/** Messages are worked on one after the other: the library's calls are promises. */
let queue = Promise.resolve();
const inOrder = (work: () => Promise<void>): void => {
  queue = queue.then(work);
};

port.on('message', (message: ToGrammarThread) => {
  if (message.type === 'compile') inOrder(() => answerCompile(message.id, message.source));
  else listen(message.port);
});
send({ type: 'ready' });

function listen(engine: MessagePort): void {
  engine.on('message', (step: EngineStep) => inOrder(() => follow(step)));
}

async function answerCompile(id: number, source: GrammarSource): Promise<void> {
  try {
    await compile(source);
    send({ type: 'compiled', id });
  } catch (error) {
    send({ type: 'refused', id, why: error instanceof Error ? error.message : String(error) });
    end();
  }
}

async function compile(source: GrammarSource): Promise<CompiledGrammar> {
  const key = `${source.kind}\n${source.text}`;
  let grammar = compiled.get(key);
  compiled.delete(key);
  grammar ??=
    source.kind === 'ebnf'
      ? await compiler.compileGrammar(source.text, 'root')
      : await compiler.compileStructuralTag(JSON.parse(source.text) as Record<string, unknown>);
  compiled.set(key, grammar);
  if (compiled.size > COMPILED_MAX) {
    const [oldest, unused] = compiled.entries().next().value!;
    compiled.delete(oldest);
    unused.dispose(); // matchers keep what they need of it alive
  }
  return grammar;
}

async function follow({ open, accept, close }: EngineStep): Promise<void> {
  for (const state of close) {
    states.get(state)?.matcher.dispose();
    states.delete(state);
  }
  for (const [id, token] of accept) {
    const state = states.get(id);
    if (state) await advance(state, [token], Atomics.load(state.shared, 0) + 1);
  }
  for (const { state: id, source, tokens, shared } of open) {
    const words = new Int32Array(shared);
    try {
      const matcher = await library.GrammarMatcher.createGrammarMatcher(await compile(source));
      const state = { matcher, shared: words };
      states.set(id, state);
      await advance(state, tokens, tokens.length + 1);
    } catch {
      breakState(words, BROKEN);
      end();
    }
  }
  if (open.length + close.length > 0) send({ type: 'states', open: states.size });
}

/** Follows tokens and writes the mask after them; `masks` is what the counter says then. */
async function advance({ matcher, shared }: State, tokens: Iterable<number>, masks: number): Promise<void> {
  for (const token of tokens) {
    if (matcher.acceptToken(token)) continue;
    breakState(shared, REFUSED);
    return;
  }
  const mask = await matcher.getNextTokenBitmask();
  shared.set(mask.subarray(0, shared.length - MASK_OFFSET), MASK_OFFSET);
  Atomics.store(shared, 0, masks);
  Atomics.notify(shared, 0);
}

function breakState(shared: Int32Array, as: typeof BROKEN | typeof REFUSED): void {
  Atomics.store(shared, 0, as);
  Atomics.notify(shared, 0);
}

/** After an abort; the messages sent so far still go out. */
function end(): void {
  setImmediate(() => process.exit(1));
}
