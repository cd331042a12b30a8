/**
 * A grader as its owner wrote it, defaults filled in, and what comes out of one run: a reward and the ways in which it
 * may have failed. Failures of the data and of models are part of the answer; only a grader that is wrong whatever the
 * data is refused.
 */
import type { TextMetric } from './text-similarity.ts';

export type TextContent =
  | string
  | { type: 'input_text' | 'output_text'; text: string }
  | (string | { type: 'input_text' | 'output_text'; text: string })[];

export interface GraderMessage {
  role: 'user' | 'assistant' | 'system' | 'developer';
  content: TextContent;
  type?: 'message';
}

export interface SamplingParams {
  seed?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  max_completions_tokens?: number | null;
  reasoning_effort?: string | null;
}

export interface StringCheckGrader {
  type: 'string_check';
  name: string;
  input: string;
  reference: string;
  operation: 'eq' | 'ne' | 'like' | 'ilike';
}

export interface TextSimilarityGrader {
  type: 'text_similarity';
  name: string;
  input: string;
  reference: string;
  evaluation_metric: TextMetric;
  pass_threshold?: number;
}

export interface ScoreModelGrader {
  type: 'score_model';
  name: string;
  model: string;
  input: GraderMessage[];
  range: [min: number, max: number];
  sampling_params?: SamplingParams;
  pass_threshold?: number;
}

export interface LabelModelGrader {
  type: 'label_model';
  name: string;
  model: string;
  input: GraderMessage[];
  labels: string[];
  passing_labels: string[];
  sampling_params?: SamplingParams;
}

export type SingleGrader = StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | LabelModelGrader;

export interface MultiGrader {
  type: 'multi';
  name: string;
  /** By the name that the formula uses. */
  graders: Record<string, SingleGrader>;
  calculate_output: string;
}

export type Grader = SingleGrader | MultiGrader;

/** OpenAI's catalogue of failures; those of python graders cannot happen here. */
export interface GraderErrors {
  formula_parse_error: boolean;
  sample_parse_error: boolean;
  truncated_observation_error: boolean;
  unresponsive_reward_error: boolean;
  invalid_variable_error: boolean;
  other_error: boolean;
  python_grader_server_error: boolean;
  python_grader_server_error_type: string | null;
  python_grader_runtime_error: boolean;
  python_grader_runtime_error_details: string | null;
  model_grader_server_error: boolean;
  model_grader_refusal_error: boolean;
  model_grader_parse_error: boolean;
  model_grader_server_error_details: string | null;
}

export interface TokenUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** What one grader said. */
export interface Grade {
  reward: number;
  errors: Partial<GraderErrors>;
  /** The model that judged, and what it read and wrote. */
  sampled?: { model: string; usage: TokenUsage };
}

export const failed = (errors: Partial<GraderErrors>): Grade => ({ reward: 0, errors });

export const NO_ERRORS: GraderErrors = {
  formula_parse_error: false,
  sample_parse_error: false,
  truncated_observation_error: false,
  unresponsive_reward_error: false,
  invalid_variable_error: false,
  other_error: false,
  python_grader_server_error: false,
  python_grader_server_error_type: null,
  python_grader_runtime_error: false,
  python_grader_runtime_error_details: null,
  model_grader_server_error: false,
  model_grader_refusal_error: false,
  model_grader_parse_error: false,
  model_grader_server_error_details: null,
};
