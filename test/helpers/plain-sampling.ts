/** What a request that asks for nothing special puts on the wire to an inference worker. */
import type { WireSampling } from '../../src/inference/protocol.ts';

export const PLAIN_SAMPLING: WireSampling = {
  max_tokens: null,
  temperature: 1,
  top_p: 1,
  n: 1,
  stop: [],
  seed: null,
  logprobs: false,
  top_logprobs: 0,
  presence_penalty: 0,
  frequency_penalty: 0,
  logit_bias: {},
};
