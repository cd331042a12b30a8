/**
 * A compiled Jinja template that cannot run away: every evaluated node costs fuel, values have size limits, and a clock
 * is looked at now and then. The interpreter itself has no such limits, and a template is a file from somewhere else.
 */
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';

/** The template cannot be used (`invalid_template`), refused its input or broke a limit (`template_rejects`). */
export class TemplateError extends Error {
  override name = 'TemplateError';
  readonly code: 'invalid_template' | 'template_rejects';

  constructor(code: TemplateError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

/** Far above what real templates use, and about a second of work. */
const templateLimits = {
  fuel: 3_000_000,
  stringChars: 8 * 1024 * 1024,
  listItems: 100_000,
  milliseconds: 5000,
} as const;

/** What is used of the interpreter; the package's own type declarations do not resolve under Node's module rules. */
interface Evaluator {
  run(program: unknown): { value: unknown };
  evaluate(statement: unknown, environment: unknown): { value: unknown };
}

const Unbounded = Interpreter as unknown as new (environment: unknown) => Evaluator;

class BoundedInterpreter extends Unbounded {
  private fuel: number = templateLimits.fuel;
  private readonly deadline = performance.now() + templateLimits.milliseconds;
  private nextClock = 0;

  override evaluate(statement: unknown, environment: unknown): { value: unknown } {
    this.charge(1);
    const result = super.evaluate(statement, environment);
    const { value } = result;
    if (typeof value === 'string') {
      if (value.length > templateLimits.stringChars)
        throw new Error(`a text is longer than ${templateLimits.stringChars} characters`);
    } else if (Array.isArray(value)) {
      if (value.length > templateLimits.listItems)
        throw new Error(`a list is longer than ${templateLimits.listItems} items`);
      // A loop with an empty body evaluates nothing per item, so its list pays for it.
      this.charge(value.length);
    }
    return result;
  }

  private charge(amount: number): void {
    this.fuel -= amount;
    this.nextClock -= amount;
    if (this.fuel < 0) throw new Error('it does not come to an end');
    if (this.nextClock > 0) return;
    this.nextClock = 10_000;
    if (performance.now() > this.deadline)
      throw new Error(`it takes longer than ${templateLimits.milliseconds} ms`);
  }
}

/** Jinja's range(stop) and range(start, stop, step), with a limit on the length. */
function range(first: number, stop?: number, step = 1): number[] {
  const [low, high] = stop === undefined ? [0, first] : [first, stop];
  const length = Math.max(0, Math.ceil((high - low) / step));
  if (!(length <= templateLimits.listItems)) throw new Error(`range of ${length} items`);
  return Array.from({ length }, (_, i) => low + i * step);
}

/**
 * Names that transformers gives every template. Not among them: strftime_now. A template that prints today's date would
 * train on one text and serve another; those that ask whether it exists fall back to a fixed date.
 */
const globals: Record<string, unknown> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range,
  raise_exception: (message: string) => {
    throw new Error(message);
  },
};

export class TemplateProgram {
  private readonly program: unknown;

  /** @throws TemplateError when the source does not parse. */
  constructor(source: string) {
    try {
      this.program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    } catch (error) {
      throw new TemplateError(
        'invalid_template',
        `the chat template does not parse: ${(error as Error).message}`,
      );
    }
  }

  /**
   * Renders the template with these variables.
   * @throws TemplateError when the template raises an exception or breaks a limit.
   */
  render(variables: Record<string, unknown>): string {
    const environment = new Environment();
    try {
      for (const [name, value] of Object.entries({ ...globals, ...variables })) environment.set(name, value);
      return String(new BoundedInterpreter(environment).run(this.program).value);
    } catch (error) {
      throw new TemplateError(
        'template_rejects',
        `the chat template refuses this: ${(error as Error).message}`,
      );
    }
  }
}
