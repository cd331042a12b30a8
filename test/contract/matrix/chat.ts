/** The matrix: chat completions with every parameter, stored ones, and legacy completions. */
import { describe, expect, it } from 'vitest';
import { type Matrix, MODEL } from './harness.ts';

const messages = [{ role: 'user' as const, content: 'How old is Ann?' }];

export function chatMatrix(m: () => Matrix): void {
  describe('chat completions', () => {
    it('take every sampling parameter', async () => {
      const answer = await m().client.chat.completions.create({
        model: MODEL,
        messages,
        max_completion_tokens: 5,
        temperature: 0.5,
        top_p: 0.9,
        frequency_penalty: 0.1,
        presence_penalty: 0.1,
        logit_bias: { '5': -1 },
        logprobs: true,
        top_logprobs: 2,
        n: 2,
        stop: ['\n\n'],
        seed: 3,
      });
      expect(answer).toMatchObject({ object: 'chat.completion', model: MODEL, service_tier: 'default' });
      expect(answer.choices).toHaveLength(2);
      expect(answer.choices[0]?.logprobs?.content?.[0]?.top_logprobs).toHaveLength(2);
      const { prompt_tokens, completion_tokens, total_tokens } = answer.usage!;
      expect(total_tokens).toBe(prompt_tokens + completion_tokens);
    });

    it('give the same answer for the same seed, with max_tokens and one stop string', async () => {
      const create = () =>
        m().client.chat.completions.create({
          model: MODEL,
          messages,
          max_tokens: 12,
          seed: 5,
          temperature: 1,
          stop: '!',
        });
      expect((await create()).choices[0]?.message.content).toBe((await create()).choices[0]?.message.content);
    });

    it('take every role and kind of text', async () => {
      const answer = await m().client.chat.completions.create({
        model: MODEL,
        max_completion_tokens: 4,
        messages: [
          { role: 'developer', content: 'Be brief.' },
          { role: 'user', name: 'ann', content: [{ type: 'text', text: 'Hi' }] },
          { role: 'assistant', content: 'Hello.', refusal: null },
          { role: 'user', content: 'And?' },
        ],
      });
      expect(answer.choices[0]?.message.role).toBe('assistant');
    });

    it('accept what they ignore', async () => {
      const answer = await m().client.chat.completions.create({
        model: MODEL,
        messages,
        max_completion_tokens: 2,
        user: 'u',
        safety_identifier: 's',
        metadata: { a: 'b' },
        store: false,
        service_tier: 'auto',
        prompt_cache_key: 'k',
        prediction: { type: 'content', content: 'x' },
        reasoning_effort: 'low',
        verbosity: 'low',
        modalities: ['text'],
        response_format: { type: 'text' },
      });
      expect(answer.choices).toHaveLength(1);
    });

    it('stream with usage, log probabilities and the helper', async () => {
      const stream = await m().client.chat.completions.create({
        model: MODEL,
        messages,
        max_completion_tokens: 6,
        logprobs: true,
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = '';
      let tokens = 0;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? '';
        tokens = chunk.usage?.completion_tokens ?? tokens;
      }
      expect(text.length).toBeGreaterThan(0);
      expect(tokens).toBeGreaterThan(0);
      const helper = m().client.chat.completions.stream({ model: MODEL, messages, max_completion_tokens: 4 });
      expect((await helper.finalChatCompletion()).object).toBe('chat.completion');
    });

    it.each([
      [{ audio: { voice: 'alloy', format: 'wav' } }, 'audio'],
      [{ modalities: ['audio'] }, 'modalities'],
      [{ web_search_options: {} }, 'web_search_options'],
      [{ temperature: 3 }, 'temperature'],
      [{ n: 129 }, 'n'],
      [{ surplus: 1 }, 'surplus'],
    ])('refuse %j by name', async (fields, param) => {
      const create = m().client.chat.completions.create({ model: MODEL, messages, ...(fields as object) });
      await expect(create).rejects.toMatchObject({ status: 400, param });
    });
  });
  const tools = [
    {
      type: 'function' as const,
      function: {
        name: 'look_up',
        description: 'Finds a person.',
        strict: true,
        parameters: {
          type: 'object',
          properties: { name: { type: 'string', enum: ['Ann', 'Bob'] } },
          required: ['name'],
          additionalProperties: false,
        },
      },
    },
  ];

  describe('tools', () => {
    it('are called when they are forced, whole and streamed, and their results are read', async () => {
      const { completions } = m().client.chat;
      for (const tool_choice of ['required', { type: 'function', function: { name: 'look_up' } }] as const) {
        const answer = await completions.create({
          model: MODEL,
          messages,
          tools,
          tool_choice,
          temperature: 0,
        });
        const call = answer.choices[0]?.message.tool_calls?.[0];
        expect(answer.choices[0]?.finish_reason).toBe('tool_calls');
        expect(call).toMatchObject({ id: expect.stringMatching(/^call_/), type: 'function' });
        if (call?.type !== 'function') throw new Error('no function is called');
        expect(['Ann', 'Bob']).toContain(JSON.parse(call.function.arguments).name);
      }
      const helper = completions.stream({
        model: MODEL,
        messages,
        tools,
        tool_choice: 'required',
        temperature: 0,
      });
      const message = (await helper.finalChatCompletion()).choices[0]!.message;
      expect(message.tool_calls?.[0]).toMatchObject({ function: { name: 'look_up' } });
      const after = await completions.create({
        model: MODEL,
        max_completion_tokens: 4,
        tools,
        tool_choice: 'auto',
        parallel_tool_calls: true,
        messages: [
          ...messages,
          { role: 'assistant', content: null, tool_calls: message.tool_calls },
          { role: 'tool', tool_call_id: message.tool_calls![0]!.id, content: '31' },
        ],
      });
      expect(after.choices[0]?.finish_reason).toMatch(/stop|length|tool_calls/);
    });

    it('are left alone with none', async () => {
      const answer = await m().client.chat.completions.create({
        ...{ model: MODEL, messages, tools, max_completion_tokens: 4 },
        tool_choice: 'none',
      });
      expect(answer.choices[0]?.message.tool_calls ?? []).toEqual([]);
    });
  });

  describe('response formats', () => {
    it('json_schema is kept to, whole and streamed', async () => {
      const schema = {
        type: 'object',
        properties: { name: { type: 'string', enum: ['Ann', 'Bob'] }, old: { type: 'boolean' } },
        required: ['name', 'old'],
        additionalProperties: false,
      };
      const response_format = {
        type: 'json_schema' as const,
        json_schema: { name: 'person', description: 'Someone.', schema, strict: true },
      };
      const answer = await m().client.chat.completions.create({ model: MODEL, messages, response_format });
      const person = JSON.parse(answer.choices[0]!.message.content!);
      expect(['Ann', 'Bob']).toContain(person.name);
      expect(typeof person.old).toBe('boolean');
      const helper = m().client.chat.completions.stream({ model: MODEL, messages, response_format });
      expect(JSON.parse((await helper.finalContent())!)).toHaveProperty('old');
    });

    it('json_object is JSON', async () => {
      const answer = await m().client.chat.completions.create({
        model: MODEL,
        messages: [{ role: 'user', content: 'Answer in JSON.' }],
        response_format: { type: 'json_object' },
        max_completion_tokens: 200,
      });
      const [choice] = answer.choices;
      if (choice?.finish_reason === 'stop') expect(typeof JSON.parse(choice.message.content!)).toBe('object');
      else expect(choice?.finish_reason).toBe('length');
    });
  });

  describe('stored completions', () => {
    it('are listed, read with their messages, changed and deleted', async () => {
      const { completions } = m().client.chat;
      const made = await completions.create({
        ...{ model: MODEL, messages, max_completion_tokens: 4 },
        ...{ store: true, metadata: { area: 'stored' } },
      });
      const list = await completions.list({
        model: MODEL,
        metadata: { area: 'stored' },
        limit: 5,
        order: 'desc',
      });
      expect(list.data.map((each) => each.id)).toEqual([made.id]);
      expect((await completions.retrieve(made.id)).choices).toEqual(made.choices);
      const kept = await completions.messages.list(made.id, { limit: 10, order: 'asc' });
      expect(kept.data.map((message) => message.content)).toEqual([messages[0]!.content]);
      const changed = await completions.update(made.id, { metadata: { area: 'changed' } });
      expect(changed.metadata).toEqual({ area: 'changed' });
      expect(await completions.delete(made.id)).toMatchObject({ id: made.id, deleted: true });
      await expect(completions.retrieve(made.id)).rejects.toMatchObject({ status: 404 });
    });
  });

  describe('text completions', () => {
    it('take every parameter', async () => {
      const answer = await m().client.completions.create({
        model: MODEL,
        prompt: 'Ann is',
        max_tokens: 4,
        temperature: 0.7,
        top_p: 0.9,
        n: 2,
        best_of: 3,
        echo: true,
        logprobs: 2,
        frequency_penalty: 0.1,
        presence_penalty: 0.1,
        logit_bias: { '5': -1 },
        seed: 3,
        stop: ['\n'],
        user: 'u',
      });
      expect(answer).toMatchObject({ object: 'text_completion', model: MODEL });
      expect(answer.choices).toHaveLength(2);
      expect(answer.choices[0]?.text.startsWith('Ann is')).toBe(true);
      expect(answer.choices[0]?.logprobs?.tokens?.length).toBeGreaterThan(0);
    });

    it('take several prompts and stream', async () => {
      const answer = await m().client.completions.create({
        model: MODEL,
        prompt: ['Ann', 'Bob'],
        max_tokens: 2,
      });
      expect(answer.choices.map((choice) => choice.index)).toEqual([0, 1]);
      const stream = await m().client.completions.create({
        ...{ model: MODEL, prompt: 'Ann is', max_tokens: 4 },
        ...{ stream: true, stream_options: { include_usage: true } },
      });
      let tokens = 0;
      for await (const chunk of stream) tokens = chunk.usage?.completion_tokens ?? tokens;
      expect(tokens).toBeGreaterThan(0);
      const filled = m().client.completions.create({ model: MODEL, prompt: 'a', suffix: 'b' });
      await expect(filled).rejects.toMatchObject({ status: 400, param: 'suffix' });
    });
  });
}
