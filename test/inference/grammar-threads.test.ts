/** Grammar threads and the states in them, without a model: which thread compiles, and what a token that does not fit does. */
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { Grammars } from '../../workers/inference/grammar/grammars.ts';
import { GrammarStates } from '../../workers/inference/grammar/states.ts';

const SHIPPED = `${import.meta.dirname}/../../models/lathe-tiny`;
const tokenizer = loadTokenizer(SHIPPED);
let states: GrammarStates;
let grammars: Grammars;
beforeAll(() => {
  states = new GrammarStates(tokenizer.vocabSize);
  const connect = states.connect.bind(states);
  grammars = new Grammars({ modelDirectory: SHIPPED, threads: 2, deadlineMilliseconds: 20_000, connect });
});
afterAll(() => grammars.close());

let made = 0;
const compile = () => grammars.compile({ kind: 'ebnf', text: `root ::= "aaa${made++}"` }, 'schema');
const maskOf = (state: ReturnType<GrammarStates['start']>) => {
  states.flush();
  states.beginStep(10_000);
  return state.mask();
};

it('a state whose token does not fit is broken at once, and the others go on', async () => {
  const grammar = await compile();
  const [bad, good] = [states.start(grammar), states.start(grammar)];
  expect([maskOf(bad), maskOf(good)]).toEqual([expect.any(Int32Array), expect.any(Int32Array)]);
  const [a, b] = ['a', 'b'].map((text) => tokenizer.encode(text)[0]!);
  bad.accept(b!);
  good.accept(a!);
  const began = performance.now();
  expect(maskOf(bad)).toBe('broken');
  expect(performance.now() - began).toBeLessThan(5_000);
  expect(maskOf(good)).toBeInstanceOf(Int32Array);
  for (const state of [bad, good]) state.close();
  states.flush();
}, 30_000);

it('a grammar is compiled where no choice waits for its masks', async () => {
  const first = await compile();
  const state = states.start(first);
  expect(maskOf(state)).toBeInstanceOf(Int32Array);
  await vi.waitFor(async () => expect((await compile()).thread).not.toBe(first.thread), 10_000);
  expect((await compile()).thread).not.toBe(first.thread);
  state.close();
  states.flush();
  const other = states.start(await compile());
  expect(maskOf(other)).toBeInstanceOf(Int32Array);
  await vi.waitFor(async () => expect((await compile()).thread).toBe(first.thread), 10_000);
  other.close();
}, 30_000);
