/** Chat completions: what the worker is asked, what the caller gets, and which model answers. */
import { describe, expect, it } from 'vitest';
import { BASE_MODEL, CONTEXT_LENGTH } from '../helpers/app.ts';
import { PLAIN_SAMPLING } from '../helpers/plain-sampling.ts';
import { useChat } from './chat-service.ts';
import { addTunedModel } from './rows.ts';
import { answerOf } from './scripted-worker.ts';

const { t, there, chat } = useChat();

describe('a plain completion', () => {
  it("has OpenAI's shape", async () => {
    const answer = await chat();
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9A-Za-z]{24}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: BASE_MODEL,
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hello.', refusal: null, annotations: [] },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
      usage: {
        prompt_tokens: 7,
        completion_tokens: 3,
        total_tokens: 10,
        prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
        completion_tokens_details: {
          reasoning_tokens: 0,
          audio_tokens: 0,
          accepted_prediction_tokens: 0,
          rejected_prediction_tokens: 0,
        },
      },
      service_tier: 'default',
      system_fingerprint: expect.stringMatching(/^fp_[0-9a-f]{10}$/),
    });
  });

  it('sends every parameter to the worker, and defaults for the absent ones', async () => {
    await chat();
    expect(there.worker.requests[0]).toEqual({
      request_id: expect.stringMatching(/^chatcmpl-/),
      base_model: BASE_MODEL,
      adapter: null,
      cache_owner: t.alice.projectId,
      messages: [{ role: 'user', content: 'Hi' }],
      tools: null,
      sampling: PLAIN_SAMPLING,
    });
    there.worker.script = answerOf(['x'], { n: 2 });
    await chat({
      max_completion_tokens: 10_000_000,
      temperature: 0,
      top_p: 0.5,
      n: 2,
      stop: 'END',
      seed: 42,
      logprobs: true,
      top_logprobs: 3,
      presence_penalty: 1,
      frequency_penalty: -1,
      logit_bias: { 5: -100 },
    });
    expect(there.worker.requests[1]?.sampling).toEqual({
      max_tokens: CONTEXT_LENGTH,
      temperature: 0,
      top_p: 0.5,
      n: 2,
      stop: ['END'],
      seed: 42,
      logprobs: true,
      top_logprobs: 3,
      presence_penalty: 1,
      frequency_penalty: -1,
      logit_bias: { 5: -100 },
    });
  });

  it('hands over messages as templates know them', async () => {
    await chat({
      messages: [
        {
          role: 'developer',
          content: [
            { type: 'text', text: 'Be ' },
            { type: 'text', text: 'brief.' },
          ],
        },
        { role: 'user', content: 'a', name: 'Ann' },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{}' } }],
          refusal: null,
          annotations: [],
        },
        { role: 'tool', content: '4', tool_call_id: 'call_1' },
        { role: 'assistant', content: [{ type: 'text', text: 'Four' }] },
        {
          role: 'assistant',
          content: '!',
          ...{ tool_calls: null, function_call: null, refusal: null, annotations: null, audio: null },
        },
        { role: 'user', content: 'b' },
      ],
    });
    expect(there.worker.requests[0]?.messages).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'a', name: 'Ann' },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', content: '4', tool_call_id: 'call_1' },
      { role: 'assistant', content: 'Four' },
      { role: 'assistant', content: '!' },
      { role: 'user', content: 'b' },
    ]);
  });

  it('has n choices, each with its log probabilities and reason', async () => {
    there.worker.script = [
      ...answerOf(['a', 'b'], { n: 2 }).filter((event) => event.type !== 'finish' && event.type !== 'done'),
      { type: 'finish', index: 1, reason: 'length' },
      { type: 'finish', index: 0, reason: 'stop' },
      { type: 'done', prompt_tokens: 7, completion_tokens: 4, cached_tokens: 5 },
    ];
    const answer = await chat({ n: 2, logprobs: true, top_logprobs: 1 });
    expect(answer.json.choices.map((c: { finish_reason: string }) => c.finish_reason)).toEqual([
      'stop',
      'length',
    ]);
    expect(answer.json.choices[1].message.content).toBe('ab');
    expect(answer.json.choices[1].logprobs).toEqual({
      content: ['a', 'b'].map((token) => ({
        token,
        logprob: -0.5,
        bytes: [...Buffer.from(token)],
        top_logprobs: [{ token, logprob: -0.5, bytes: [...Buffer.from(token)] }],
      })),
      refusal: null,
    });
    expect(answer.json.usage.prompt_tokens_details.cached_tokens).toBe(5);
  });

  it('ignores what does not concern a text model of its own, and refuses what it cannot do', async () => {
    const ignored = await chat({
      user: 'u',
      safety_identifier: 's',
      metadata: { a: 'b' },
      store: true,
      service_tier: 'flex',
      prompt_cache_key: 'k',
      reasoning_effort: 'low',
      verbosity: 'high',
      parallel_tool_calls: true,
      response_format: { type: 'text' },
      tool_choice: 'none',
      tools: null,
      modalities: ['text'],
    });
    expect([ignored.status, ignored.json.service_tier]).toEqual([200, 'default']);
  });
});

describe('which model answers', () => {
  it('is the tuned one, by its adapter', async () => {
    const model = await addTunedModel(t, t.alice, { tail: 'aaaaaaaa', step: 30 });
    const answer = await chat({ model: model.id });
    expect(answer.json.model).toBe(model.id);
    expect(answer.json.system_fingerprint).not.toBe((await chat()).json.system_fingerprint);
    expect(there.worker.requests[0]).toMatchObject({
      base_model: BASE_MODEL,
      adapter: {
        model_id: model.id,
        digest: model.digest,
        storage_prefix: model.storagePrefix,
        files: model.files,
      },
    });
  });

  it.each(['nothing', 'ft:nothing:acme::00000000'])('is none for the unknown name %s', async (name) => {
    const answer = await chat({ model: name });
    expect([answer.status, answer.json.error]).toEqual([
      404,
      {
        message: `The model '${name}' does not exist`,
        type: 'invalid_request_error',
        param: 'model',
        code: 'model_not_found',
      },
    ]);
  });

  it('is none for a model of another project', async () => {
    const foreign = await addTunedModel(t, t.bob, { tail: 'bbbbbbbb' });
    expect((await chat({ model: foreign.id })).status).toBe(404);
    expect(there.worker.requests).toEqual([]);
  });

  it('refuses what cannot fit before it asks a worker', async () => {
    const answer = await chat({ messages: [{ role: 'user', content: 'x'.repeat(16 * CONTEXT_LENGTH + 1) }] });
    expect([answer.status, answer.json.error.code]).toEqual([400, 'context_length_exceeded']);
    expect(there.worker.requests).toEqual([]);
  });
});
