/**
 * Runs a grader on one sample, and checks one without running it. Models are asked through the service's own chat
 * endpoint; nothing that a user wrote is ever executed.
 */
import { ApiError, insufficientScope, invalidValue } from '../../errors.ts';
import type { AnswerRequest } from '../answer-request.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Identity } from '../keys/lookup.ts';
import { allows } from '../keys/scopes.ts';
import { resolveModel } from '../models/registry.ts';
import { FORMULA_NAME, type Formula, FormulaError, parseFormula } from './formula.ts';
import {
  failed,
  type Grade,
  type Grader,
  type GraderErrors,
  type MultiGrader,
  NO_ERRORS,
  type SingleGrader,
  type TokenUsage,
} from './grader.ts';
import { type Bench, labelByModel, scoreByModel, textOf } from './model-grader.ts';
import { render, sampleOf, templateProblem, textRoom, VariableError } from './template.ts';
import { TEXT_MAX, textSimilarity } from './text-similarity.ts';

export interface GraderRun {
  reward: number;
  name: string;
  type: string;
  errors: GraderErrors;
  /** Seconds. */
  executionTime: number;
  /** Reward of each grader of a multi grader. */
  subRewards: Record<string, number>;
  sampledModel: string | null;
  usageByModel: Record<string, TokenUsage>;
}

interface Request {
  grader: Grader;
  item: unknown;
  modelSample: string;
}

type Deps = Pick<Dependencies, 'database'> & { ask: AnswerRequest };

/**
 * Throws ApiError for a grader that is wrong whatever the data: templates, names, unknown models; 403 when it asks a
 * model and the key may not.
 */
export async function runGrader(
  deps: Deps,
  identity: Identity,
  { grader, item, modelSample }: Request,
  signal: AbortSignal,
): Promise<GraderRun> {
  checkTexts(grader);
  if (singles(grader).some(([, each]) => asksModel(each)) && !allows(identity, 'api.model.request'))
    throw insufficientScope('api.model.request');
  await checkModels(deps, identity.projectId, grader);
  const started = performance.now();
  const sample = sampleOf(modelSample);
  const bench: Bench = { item, sample, room: textRoom(), identity, ask: deps.ask, signal };
  const { grade, parts } =
    grader.type === 'multi'
      ? await gradeAll(grader, bench)
      : { grade: await gradeOne(grader, bench), parts: {} };
  const sampled = [grade, ...Object.values(parts)].flatMap((each) => each.sampled ?? []);
  return {
    reward: grade.reward,
    name: grader.name,
    type: grader.type,
    errors: {
      ...NO_ERRORS,
      ...Object.assign({}, ...Object.values(parts).map((each) => each.errors), grade.errors),
    },
    executionTime: (performance.now() - started) / 1000,
    subRewards: Object.fromEntries(Object.entries(parts).map(([name, each]) => [name, each.reward])),
    sampledModel: sampled[0]?.model ?? null,
    usageByModel: sumByModel(sampled),
  };
}

/** Throws ApiError when the grader cannot work: also a formula that does not parse, which a run reports as an error. */
export async function validateGrader(
  deps: Pick<Dependencies, 'database'>,
  projectId: string,
  grader: Grader,
) {
  checkTexts(grader);
  await checkModels(deps, projectId, grader);
  if (grader.type !== 'multi') return;
  try {
    const unknown = [...parseFormula(grader.calculate_output).names].find(
      (name) => !Object.hasOwn(grader.graders, name),
    );
    if (unknown) throw new FormulaError(`there is no grader '${unknown}'.`);
  } catch (error) {
    if (error instanceof FormulaError) throw invalidValue('grader.calculate_output', error.message);
    throw error;
  }
}

async function gradeAll(
  grader: MultiGrader,
  bench: Bench,
): Promise<{ grade: Grade; parts: Record<string, Grade> }> {
  const graded = Object.entries(grader.graders).map(
    async ([name, each]) => [name, await gradeOne(each, bench)] as const,
  );
  const parts = Object.fromEntries(await Promise.all(graded));
  let formula: Formula;
  try {
    formula = parseFormula(grader.calculate_output);
  } catch (error) {
    if (!(error instanceof FormulaError)) throw error;
    return { grade: failed({ formula_parse_error: true }), parts };
  }
  if ([...formula.names].some((name) => !Object.hasOwn(parts, name)))
    return { grade: failed({ formula_parse_error: true }), parts };
  const reward = formula.evaluate(new Map(Object.entries(parts).map(([name, each]) => [name, each.reward])));
  // log(0) and 1/0 are no rewards, and JSON has no word for them.
  return { grade: Number.isFinite(reward) ? { reward, errors: {} } : failed({ other_error: true }), parts };
}

async function gradeOne(grader: SingleGrader, bench: Bench): Promise<Grade> {
  try {
    if (grader.type === 'score_model') return await scoreByModel(grader, bench);
    if (grader.type === 'label_model') return await labelByModel(grader, bench);
    const input = render(grader.input, bench.item, bench.sample, bench.room);
    const reference = render(grader.reference, bench.item, bench.sample, bench.room);
    if (grader.type === 'string_check')
      return { reward: checkStrings(grader.operation, input, reference) ? 1 : 0, errors: {} };
    if (input.length > TEXT_MAX || reference.length > TEXT_MAX)
      return failed({ truncated_observation_error: true });
    return { reward: await textSimilarity(grader.evaluation_metric, input, reference), errors: {} };
  } catch (error) {
    if (error instanceof VariableError) return failed({ [error.fault]: true });
    throw error;
  }
}

function checkStrings(operation: 'eq' | 'ne' | 'like' | 'ilike', input: string, reference: string): boolean {
  if (operation === 'eq') return input === reference;
  if (operation === 'ne') return input !== reference;
  if (operation === 'like') return input.includes(reference);
  return input.toLowerCase().includes(reference.toLowerCase());
}

/** [path, grader]: the grader itself, or those inside of a multi grader. */
function singles(grader: Grader): [string, SingleGrader][] {
  if (grader.type !== 'multi') return [['grader', grader]];
  return Object.entries(grader.graders).map(([name, each]) => [`grader.graders.${name}`, each]);
}

const asksModel = (grader: SingleGrader) => grader.type === 'score_model' || grader.type === 'label_model';

function checkTexts(grader: Grader): void {
  if (grader.type === 'multi') {
    const bad = Object.keys(grader.graders).find((name) => !FORMULA_NAME.test(name));
    if (bad !== undefined) {
      const why = `'${bad.slice(0, 80)}' is no name that a formula can hold: letters, digits and _ only.`;
      throw invalidValue('grader.graders', why);
    }
  }
  for (const [path, each] of singles(grader)) {
    const texts: [string, string][] =
      each.type === 'score_model' || each.type === 'label_model'
        ? each.input.map((message, i) => [`${path}.input[${i}].content`, textOf(message.content)])
        : [
            [`${path}.input`, each.input],
            [`${path}.reference`, each.reference],
          ];
    for (const [param, text] of texts) {
      const problem = templateProblem(text);
      if (problem) throw invalidValue(param, problem);
    }
  }
}

async function checkModels(
  deps: Pick<Dependencies, 'database'>,
  projectId: string,
  grader: Grader,
): Promise<void> {
  for (const [path, each] of singles(grader)) {
    if (!asksModel(each)) continue;
    try {
      await resolveModel(deps, projectId, each.model);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      throw new ApiError({ status: 404, message: error.message, param: `${path}.model`, code: error.code });
    }
  }
}

function sumByModel(sampled: NonNullable<Grade['sampled']>[]): Record<string, TokenUsage> {
  const sums: Record<string, TokenUsage> = {};
  for (const { model, usage } of sampled) {
    const sum = sums[model] ?? { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
    sums[model] = {
      prompt_tokens: sum.prompt_tokens + usage.prompt_tokens,
      completion_tokens: sum.completion_tokens + usage.completion_tokens,
      total_tokens: sum.total_tokens + usage.total_tokens,
    };
  }
  return sums;
}
