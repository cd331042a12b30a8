/**
 * Graders that ask a served model: the prompt is the grader's own messages with their variables filled in, the answer
 * is held to a JSON schema, and what the model says is read from it, never trusted: numbers are kept in range.
 */
import type { AnswerRequest } from '../answer-request.ts';
import type { Identity } from '../keys/lookup.ts';
import {
  failed,
  type Grade,
  type GraderMessage,
  type LabelModelGrader,
  type SamplingParams,
  type ScoreModelGrader,
  type TextContent,
  type TokenUsage,
} from './grader.ts';
import { render, type Sample, type TextRoom } from './template.ts';

/** What a grader works with. */
export interface Bench {
  item: unknown;
  sample: Sample;
  room: TextRoom;
  identity: Identity;
  ask: AnswerRequest;
  signal: AbortSignal;
}

const ENDPOINT = '/v1/chat/completions';
/** Enough for a few steps of reasoning; a model that rambles is cut and its answer counted as unreadable. */
const ANSWER_TOKENS = 1_024;

const STEPS = {
  type: 'array',
  items: {
    type: 'object',
    properties: { description: { type: 'string' }, conclusion: { type: 'string' } },
    required: ['description', 'conclusion'],
    additionalProperties: false,
  },
};

/** A number that the model gives, within the grader's range. */
export async function scoreByModel(grader: ScoreModelGrader, bench: Bench): Promise<Grade> {
  const [min, max] = grader.range;
  const answer = await askModel(grader, bench, 'score', { steps: STEPS, result: { type: 'number' } }, [
    'Judge in steps, then give the result.',
    `Answer as JSON: {"steps": [{"description": "…", "conclusion": "…"}], "result": a number from ${min} to ${max}}.`,
  ]);
  if ('failure' in answer) return answer.failure;
  const { result } = answer.content;
  if (typeof result !== 'number' || !Number.isFinite(result)) return unreadable(answer.sampled);
  return { reward: Math.min(max, Math.max(min, result)), errors: {}, sampled: answer.sampled };
}

/** 1 when the label that the model picks is one of those that pass. */
export async function labelByModel(grader: LabelModelGrader, bench: Bench): Promise<Grade> {
  const label = { type: 'string', enum: grader.labels };
  const answer = await askModel(grader, bench, 'label', { steps: STEPS, label }, [
    'Judge in steps, then give the label.',
    `Answer as JSON: {"steps": [{"description": "…", "conclusion": "…"}], "label": one of ${JSON.stringify(grader.labels)}}.`,
  ]);
  if ('failure' in answer) return answer.failure;
  const { label: picked } = answer.content;
  if (typeof picked !== 'string' || !grader.labels.includes(picked)) return unreadable(answer.sampled);
  return { reward: grader.passing_labels.includes(picked) ? 1 : 0, errors: {}, sampled: answer.sampled };
}

type Sampled = NonNullable<Grade['sampled']>;
type ModelAnswer = { failure: Grade } | { content: Record<string, unknown>; sampled: Sampled };

const unreadable = (sampled: Sampled): Grade => ({
  ...failed({ model_grader_parse_error: true }),
  sampled,
});

async function askModel(
  grader: ScoreModelGrader | LabelModelGrader,
  bench: Bench,
  name: string,
  properties: Record<string, unknown>,
  instructions: string[],
): Promise<ModelAnswer> {
  const schema = {
    type: 'object',
    properties,
    required: Object.keys(properties),
    additionalProperties: false,
  };
  const body = {
    model: grader.model,
    messages: withInstructions(
      grader.input.map((each) => filled(each, bench)),
      instructions.join(' '),
    ),
    response_format: { type: 'json_schema', json_schema: { name, schema, strict: true } },
    ...samplingOf(grader.sampling_params),
  };
  const { status, text } = await bench.ask(bench.identity, ENDPOINT, body, bench.signal);
  if (status !== 200) return { failure: serverError(text, status) };
  const completion = JSON.parse(text) as {
    model: string;
    choices: { message: { content: string | null; refusal: string | null } }[];
    usage: TokenUsage;
  };
  const { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
  const sampled = { model: completion.model, usage: { prompt_tokens, completion_tokens, total_tokens } };
  const message = completion.choices[0]?.message;
  if (message?.refusal) return { failure: { ...failed({ model_grader_refusal_error: true }), sampled } };
  const content = parsed(message?.content ?? '');
  return content ? { content, sampled } : { failure: unreadable(sampled) };
}

/** OpenAI's own spelling of the limit is `max_completions_tokens`. */
function samplingOf(params: SamplingParams = {}): Record<string, unknown> {
  const { max_completions_tokens: limit, ...rest } = params;
  const given = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined);
  return { ...Object.fromEntries(given), max_completion_tokens: limit ?? ANSWER_TOKENS };
}

const filled = ({ role, content }: GraderMessage, { item, sample, room }: Bench) => ({
  role,
  content: render(textOf(content), item, sample, room),
});

/** The content as one text. */
export function textOf(content: TextContent): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return content.text;
  return content.map((part) => (typeof part === 'string' ? part : part.text)).join('\n');
}

/** What is asked for comes last, where every chat template shows it. */
function withInstructions(messages: { role: string; content: string }[], instructions: string) {
  const last = messages.at(-1);
  if (last?.role !== 'user') return [...messages, { role: 'user', content: instructions }];
  return [...messages.slice(0, -1), { ...last, content: `${last.content}\n\n${instructions}` }];
}

function serverError(text: string, status: number): Grade {
  const error = parsed(text)?.error as { message?: unknown } | undefined;
  const details =
    typeof error?.message === 'string' ? error.message : `The model answered with status ${status}.`;
  return failed({ model_grader_server_error: true, model_grader_server_error_details: details });
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null;
  }
}
