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
}
