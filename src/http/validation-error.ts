/**
 * From zod's first issue to OpenAI's error: the parameter's path as "messages[0].content", the code and the wording.
 * Knows the request only as data.
 */
import type { ZodError } from 'zod';
import { INTEGER_BOUND } from '../domain/jobs/parameters.ts';
import {
  type ApiError,
  arrayTooLong,
  badRequest,
  emptyArray,
  invalidType,
  invalidValue,
  missingParameter,
  stringTooLong,
} from '../errors.ts';

type Issue = ZodError['issues'][number];
type Path = readonly PropertyKey[];

/** The error to answer when `input` (the parsed body or query) did not fit its schema. */
export function toApiError(error: ZodError, input: unknown): ApiError {
  const issues = error.issues;
  // An unknown name explains a missing one (a typo), so it comes first.
  const issue = issues.find((each) => each.code === 'unrecognized_keys') ?? issues[0];
  if (!issue) return badRequest('The request is not valid.');
  return describe(issue, [], input);
}

function describe(issue: Issue, prefix: Path, input: unknown): ApiError {
  const path = [...prefix, ...issue.path];
  const param = formatPath(path);
  const value = valueAt(input, path);
  if (issue.code === 'unrecognized_keys') return unknownKey(path, issue.keys[0] ?? '', issue.message);
  if (path.length > 0 && value === undefined) return missingParameter(param);
  switch (issue.code) {
    case 'invalid_union':
      return describeUnion(issue, path, input);
    case 'invalid_type':
      return path.length === 0
        ? badRequest(
            `Invalid type for the request: expected ${expectedName(issue.expected)}, but got ${nameOf(value)} instead.`,
            null,
            'invalid_type',
          )
        : invalidType(param, expectedName(issue.expected), nameOf(value));
    case 'invalid_value':
      return typeof value === 'object' || typeof value !== typeof issue.values[0]
        ? invalidType(param, oneOf(issue.values), nameOf(value))
        : invalidValue(param, `expected ${oneOf(issue.values)}, but got ${quote(value)} instead.`);
    case 'too_small':
    case 'too_big':
      return outsideBound(issue, param, value);
    case 'not_multiple_of':
      return invalidType(param, 'an integer', nameOf(value));
    case 'invalid_format':
      return issue.message === INTEGER_BOUND
        ? invalidType(param, 'an integer', nameOf(value))
        : invalidValue(param, `${issue.message}.`);
    case 'invalid_key':
      return describe({ ...issue.issues[0]!, path: [] } as Issue, path, keyAsValue(path));
    case 'custom':
      return badRequest(
        `Invalid '${param}': ${issue.message}`,
        param,
        String((issue.params as { code?: string } | undefined)?.code ?? 'invalid_value'),
      );
    default:
      return invalidValue(param, issue.message);
  }
}

function unknownKey(path: Path, key: string, meant: string): ApiError {
  const param = formatPath([...path, key]);
  const hint = meant ? ` Did you mean '${formatPath([...path, meant])}'?` : '';
  return badRequest(`Unknown parameter: '${param}'.${hint}`, param, 'unknown_parameter');
}

/** The branch that came furthest speaks; when none fits the type at all, every type is named. */
function describeUnion(
  issue: Extract<Issue, { code: 'invalid_union' }>,
  path: Path,
  input: unknown,
): ApiError {
  const param = formatPath(path);
  const value = valueAt(input, path);
  if (issue.errors.length === 0 && 'options' in issue && issue.options) {
    const options = issue.options.filter((option) => option !== undefined && option !== null);
    if (typeof value !== 'string') return invalidType(param, oneOf(options), nameOf(value));
    return invalidValue(param, `expected ${oneOf(options)}, but got ${quote(value)} instead.`);
  }
  const mismatch = (branch: Issue[]) =>
    branch.some(
      (each) => each.path.length === 0 && (each.code === 'invalid_type' || each.code === 'invalid_value'),
    );
  const close = issue.errors.find((branch) => branch.length > 0 && !mismatch(branch));
  if (close) return describe(close[0]!, path, input);
  const expected = issue.errors.flatMap((branch) =>
    branch.map((each) =>
      each.code === 'invalid_type'
        ? expectedName(each.expected)
        : each.code === 'invalid_value'
          ? oneOf(each.values)
          : '',
    ),
  );
  const sameType = issue.errors.some((b) =>
    b.some((each) => each.code === 'invalid_type' && fits(each.expected, value)),
  );
  const wanted = [...new Set(expected.filter(Boolean))].join(' or ');
  return sameType
    ? invalidValue(param, `expected ${wanted}, but got ${quote(value)} instead.`)
    : invalidType(param, wanted, nameOf(value));
}

function outsideBound(
  issue: Extract<Issue, { code: 'too_small' | 'too_big' }>,
  param: string,
  value: unknown,
): ApiError {
  const above = issue.code === 'too_big';
  const bound = Number(above ? issue.maximum : issue.minimum);
  if (issue.origin === 'string') {
    const got = typeof value === 'string' ? value.length : 0;
    if (above) return stringTooLong(param, bound, got);
    const why = `empty string. Expected a string with minimum length ${bound}, but got a string with length ${got} instead.`;
    return invalidValue(param, why, 'string_below_min_length');
  }
  if (issue.origin === 'array') {
    const got = Array.isArray(value) ? value.length : 0;
    if (above) return arrayTooLong(param, bound, got);
    if (got === 0) return emptyArray(param);
    const why = `array too short. Expected an array with minimum length ${bound}, but got an array with length ${got} instead.`;
    return invalidValue(param, why, 'array_below_min_length');
  }
  const kind = issue.message === INTEGER_BOUND || issue.origin === 'int' ? 'integer' : 'decimal';
  const sign = `${above ? '<' : '>'}${issue.inclusive ? '=' : ''}`;
  const side = above ? 'above maximum' : 'below minimum';
  return invalidValue(
    param,
    `${kind} ${side} value. Expected a value ${sign} ${bound}, but got ${String(value)} instead.`,
    `${kind}_${above ? 'above_max' : 'below_min'}_value`,
  );
}

/** "messages[0].content"; keys that are no names are quoted: metadata["a b"]. */
function formatPath(path: Path): string {
  let text = '';
  for (const part of path) {
    const name = String(part).slice(0, 80).toWellFormed();
    if (typeof part === 'number') text += `[${part}]`;
    else if (text === '') text = name;
    else text += /^[\w-]+$/.test(name) ? `.${name}` : `[${JSON.stringify(name)}]`;
  }
  return text;
}

function valueAt(input: unknown, path: Path): unknown {
  let value = input;
  for (const part of path) {
    if (value === null || typeof value !== 'object' || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<PropertyKey, unknown>)[part];
  }
  return value;
}

/** An object in which the value at `path` is the key itself, so that a refused key is described like a value. */
function keyAsValue(path: Path): unknown {
  let value: unknown = String(path[path.length - 1] ?? '');
  for (const part of path.toReversed()) value = { [part]: value };
  return value;
}

function nameOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'an integer' : 'a decimal';
  if (typeof value === 'undefined') return 'nothing';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function expectedName(expected: string): string {
  if (expected === 'int') return 'an integer';
  if (expected === 'record') return 'an object';
  if (expected === 'null') return 'null';
  return /^[aeiou]/.test(expected) ? `an ${expected}` : `a ${expected}`;
}

const fits = (expected: string, value: unknown) => expected === typeof value;
const quote = (value: unknown) =>
  typeof value === 'string' ? `'${value.slice(0, 80)}'` : JSON.stringify(value)?.slice(0, 80);

function oneOf(values: readonly unknown[]): string {
  const quoted = values.map((value) => (typeof value === 'string' ? `'${value}'` : String(value)));
  return quoted.length === 1 ? quoted[0]! : `one of ${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`;
}
