/**
 * The `{{…}}` of a grader's texts: a path into the item of the data set or into the sample that a model produced.
 * Nothing but paths is understood, so a text can neither compute nor reach anything else.
 */

/** What `{{sample.…}}` may name. */
export interface Sample {
  output_text: string;
  /** Undefined when the text is not JSON. */
  output_json: unknown;
  output_tools: unknown[];
  choices: unknown[];
}

export type VariableFault = 'invalid_variable_error' | 'sample_parse_error' | 'truncated_observation_error';

/** How much the texts of one run may still come to, in UTF-16 units: a short template can name a long sample often. */
export interface TextRoom {
  left: number;
}

/** Room for the texts of one run. */
export const textRoom = (): TextRoom => ({ left: 16 * 2 ** 20 });

/** A text names something that is not there, or comes to more than there is room for. */
export class VariableError extends Error {
  override name = 'VariableError';
  readonly fault: VariableFault;

  constructor(fault: VariableFault, message: string) {
    super(message);
    this.fault = fault;
  }
}

const VARIABLE = /\{\{([^{}]*)\}\}/g;
const PATH = /^\s*(item|sample)((?:\.[\w-]+|\[\d{1,6}\]|\[(?:"[^"\]]*"|'[^'\]]*')\])*)\s*$/;
const STEP = /\.([\w-]+)|\[(\d+)\]|\[["']([^"'\]]*)["']\]/g;
const SAMPLE_FIELDS = ['output_text', 'output_json', 'output_tools', 'choices'];

/** What is wrong with the text whatever the data, as the end of a sentence; null when nothing is. */
export function templateProblem(text: string): string | null {
  for (const [whole, inner = ''] of text.matchAll(VARIABLE)) {
    const path = stepsOf(inner);
    const shown = whole.slice(0, 80);
    if (!path)
      return `'${shown}' names neither an item nor a sample: write {{item.field}} or {{sample.output_text}}.`;
    const [root, field] = path;
    if (root !== 'sample') continue;
    if (field === 'output_audio')
      return "'{{sample.output_audio}}' is not supported by this server: samples are text.";
    if (field === undefined || !SAMPLE_FIELDS.includes(field))
      return `'${shown}' is not known: a sample has ${SAMPLE_FIELDS.join(', ')}.`;
  }
  return null;
}

/**
 * The text with every variable replaced; strings as they are, everything else as JSON. Its length is taken out of
 * `room`. Throws VariableError.
 */
export function render(text: string, item: unknown, sample: Sample, room: TextRoom): string {
  take(room, text.length);
  return text.replace(VARIABLE, (whole, inner: string) => {
    const path = stepsOf(inner);
    if (!path) throw new VariableError('invalid_variable_error', `'${whole.slice(0, 80)}' is no path.`);
    const [root, ...steps] = path;
    if (root === 'sample' && steps[0] === 'output_json' && sample.output_json === undefined)
      throw new VariableError('sample_parse_error', 'The sample is not JSON.');
    const value = valueAt(root === 'item' ? item : sample, steps);
    if (value === undefined)
      throw new VariableError('invalid_variable_error', `There is no '${inner.trim().slice(0, 80)}'.`);
    const filled = typeof value === 'string' ? value : JSON.stringify(value);
    take(room, filled.length);
    return filled;
  });
}

function take(room: TextRoom, length: number): void {
  if (length > room.left)
    throw new VariableError('truncated_observation_error', 'The texts of this run are too long.');
  room.left -= length;
}

/** The sample behind a model's text. */
export function sampleOf(text: string): Sample {
  return {
    output_text: text,
    output_json: parsed(text),
    output_tools: [],
    choices: [{ index: 0, message: { role: 'assistant', content: text }, finish_reason: 'stop' }],
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function stepsOf(inner: string): string[] | null {
  const match = PATH.exec(inner);
  if (!match) return null;
  const steps = [...(match[2] ?? '').matchAll(STEP)].map(
    ([, name, index, quoted]) => name ?? index ?? quoted ?? '',
  );
  return [match[1]!, ...steps];
}

/** Own members only: no path leads into a prototype. */
function valueAt(from: unknown, steps: string[]): unknown {
  let value = from;
  for (const step of steps) {
    if (value === null || typeof value !== 'object' || !Object.hasOwn(value, step)) return undefined;
    value = (value as Record<string, unknown>)[step];
  }
  return value;
}
