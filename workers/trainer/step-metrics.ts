/**
 * step_metrics.csv, the result file of a job: one line per optimizer step with OpenAI's columns. Cells of what was not
 * measured stay empty. The text is part of every checkpoint, so a resumed job continues the same file.
 */

export const CSV_HEADER = 'step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy';

export interface StepMetricsRow {
  step: number;
  trainLoss: number;
  trainAccuracy: number;
  validLoss: number | null;
  validAccuracy: number | null;
}

/** Five decimals and no more: enough to plot, and the same text on every run. */
const cell = (value: number | null): string => (value === null ? '' : String(Number(value.toFixed(5))));

export class StepMetrics {
  readonly #lines: string[];

  private constructor(lines: string[]) {
    this.#lines = lines;
  }

  static empty(): StepMetrics {
    return new StepMetrics([]);
  }

  /** Continues a file written by text(). @throws when it does not have one line for each of `steps` steps. */
  static parse(csv: string, steps: number): StepMetrics {
    const [header, ...lines] = csv.trimEnd().split('\n');
    if (
      header !== CSV_HEADER ||
      lines.length !== steps ||
      lines.some((line, i) => !line.startsWith(`${i + 1},`))
    ) {
      throw new Error(`step_metrics.csv does not hold the ${steps} steps of its checkpoint`);
    }
    return new StepMetrics(lines);
  }

  add(row: StepMetricsRow): void {
    const cells = [row.trainLoss, row.trainAccuracy, row.validLoss, row.validAccuracy].map(cell);
    this.#lines.push([row.step, ...cells].join(','));
  }

  text(): string {
    return `${[CSV_HEADER, ...this.#lines].join('\n')}\n`;
  }
}
