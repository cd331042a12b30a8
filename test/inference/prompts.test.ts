/** The prompt thread: right tokens, users' mistakes as 400, and a thread that hangs or dies harms one prompt only. */
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { WireMessage } from '../../src/inference/protocol.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { PromptThread } from '../../workers/inference/prompts.ts';

const SHIPPED = path.join(import.meta.dirname, '..', '..', 'models', 'lathe-tiny');
const cleanup: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const work of cleanup.splice(0).reverse()) await work();
});

function open(directory: string, deadlineMilliseconds = 20_000): PromptThread {
  const prompts = new PromptThread(directory, deadlineMilliseconds);
  cleanup.push(() => prompts.close());
  return prompts;
}

async function modelWithTemplate(template: string): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'lathe-prompts-'));
  cleanup.push(() => rm(folder, { recursive: true }));
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
    await copyFile(path.join(SHIPPED, file), path.join(folder, file));
  }
  await writeFile(path.join(folder, 'chat_template.jinja'), template);
  return folder;
}

const user = (content: string): WireMessage[] => [{ role: 'user', content }];

describe('prompt thread', { timeout: 60_000 }, () => {
  it('renders messages and tools as the tokenizer itself does', async () => {
    const prompts = open(SHIPPED);
    const tools = [{ type: 'function', function: { name: 'f', parameters: {} } }];
    const calls: WireMessage[] = [
      ...user('Hi <|im_end|>'),
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{"a":1}' } }],
      },
      { role: 'tool', content: '7', tool_call_id: 'call_1' },
    ];
    const { template } = loadTokenizer(SHIPPED);
    const expected = template!.renderToIds(calls as never, { tools, addGenerationPrompt: true });
    expect([...(await prompts.render(calls, tools))]).toEqual(expected);
    const plain = await Promise.all(['a', 'b c', ''].map((text) => prompts.render(user(text), null)));
    expect(plain.map((ids) => ids.length)).toEqual(
      ['a', 'b c', ''].map(
        (text) => template!.renderToIds(user(text) as never, { addGenerationPrompt: true }).length,
      ),
    );
  });

  it('answers what the template refuses with its own words', async () => {
    const folder = await modelWithTemplate(
      "{% if messages[0].role != 'user' %}{{ raise_exception('begin with a user') }}{% endif %}{{ messages[0].content }}",
    );
    const prompts = open(folder);
    await expect(prompts.render([{ role: 'system', content: 'x' }], null)).rejects.toMatchObject({
      status: 400,
      param: 'messages',
      message: expect.stringContaining('begin with a user'),
    });
    expect((await prompts.render(user('x'), null)).length).toBeGreaterThan(0);
  });

  it('refuses a prompt whose template runs without end, and answers the ones behind it', async () => {
    const folder = await modelWithTemplate(
      "{% if 'loop' in messages[0].content %}{% for i in range(100000000) %}{% endfor %}{% endif %}{{ messages[0].content }}",
    );
    const prompts = open(folder);
    const looping = prompts.render(user('loop'), null);
    const behind = prompts.render(user('x'), null);
    behind.catch(() => undefined); // looked at below
    await expect(looping).rejects.toMatchObject({ status: 400, param: 'messages' });
    expect((await behind).length).toBeGreaterThan(0);
  });

  it('gives up the prompt that is being worked on when the thread itself does not answer in time', async () => {
    const prompts = open(SHIPPED, 1); // no thread starts within a millisecond
    const [first, second] = [prompts.render(user('a'), null), prompts.render(user('b'), null)];
    await expect(first).rejects.toMatchObject({ status: 503, message: expect.stringContaining('1 ms') });
    await expect(second).rejects.toMatchObject({ status: 503 });
  });

  it('reports a thread that cannot start for each prompt, and does not start it over and over', async () => {
    const prompts = open(path.join(SHIPPED, 'nowhere'));
    for (let i = 0; i < 2; i++)
      await expect(prompts.render(user('a'), null)).rejects.toThrow(/ENOENT|tokenizer/);
  });
});
