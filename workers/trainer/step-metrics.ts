/**
 * step_metrics.csv, the result file of a job: one line per optimizer step with OpenAI's columns, then what the method
 * adds, for training and for validation. Cells of what was not measured stay empty. The text is part of every
 * checkpoint, so a resumed job continues the same file.
 */
import type { Measured } from './measured.ts';

export const CSV_HEADER = 'step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy';

/** Five decimals and no more: enough to plot, and the same text on every run. */
const cell = (value: number | null | undefined): string =>
  value === null || value === undefined ? '' : String(Number(value.toFixed(5)));

export class StepMetrics {
  readonly #names: readonly string[];
  readonly #lines: string[];

  private constructor(names: readonly string[], lines: string[]) {
    this.#names = names;
    this.#lines = lines;
  }

  /** @param names what the method measures beside loss and accuracy */
  static empty(names: readonly string[] = []): StepMetrics {
    return new StepMetrics(names, []);
  }

  /** Continues a file written by text(). @throws when it does not have one line for each of `steps` steps. */
  static parse(csv: string, steps: number, names: readonly string[] = []): StepMetrics {
    const [header, ...lines] = csv.trimEnd().split('\n');
    if (
      header !== headerOf(names) ||
      lines.length !== steps ||
      lines.some((line, i) => !line.startsWith(`${i + 1},`))
    ) {
      throw new Error(`step_metrics.csv does not hold the ${steps} steps of its checkpoint`);
    }
    return new StepMetrics(names, lines);
  }

  /** @param validation the step's validation batch, where one was measured */
  add(step: number, train: Measured, validation: Measured | null): void {
    const cells = [
      ...[train.loss, train.accuracy, validation?.loss, validation?.accuracy],
      ...this.#names.map((name) => train.more?.[name]),
      ...this.#names.map((name) => validation?.more?.[name]),
    ];
    this.#lines.push([step, ...cells.map(cell)].join(','));
  }

  text(): string {
    return `${[headerOf(this.#names), ...this.#lines].join('\n')}\n`;
  }
}

function headerOf(names: readonly string[]): string {
  return [CSV_HEADER, ...names, ...names.map((name) => `valid_${name}`)].join(',');
}
