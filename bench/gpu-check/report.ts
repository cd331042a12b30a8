/** What the device check has found so far: lines for people, flat keys for programs. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export interface Line {
  name: string;
  figure: string;
  /** What the figure must be; empty when it is only measured. */
  bound: string;
  /** null: measured, not judged. */
  ok: boolean | null;
}

export class Report {
  readonly lines: Line[] = [];
  readonly keys: Record<string, number | string | boolean | null> = {};

  /** A judged figure. */
  judge(name: string, figure: string, bound: string, ok: boolean): void {
    this.#add({ name, figure, bound, ok });
  }

  /** A figure without a bound. */
  measure(name: string, figure: string): void {
    this.#add({ name, figure, bound: '', ok: null });
  }

  get failed(): number {
    return this.lines.filter(({ ok }) => ok === false).length;
  }

  get passed(): number {
    return this.lines.filter(({ ok }) => ok === true).length;
  }

  /** The table, widest column first. */
  table(): string {
    const width = Math.max(...this.lines.map(({ name }) => name.length));
    const figures = Math.max(...this.lines.map(({ figure }) => figure.length));
    const mark = { true: 'ok  ', false: 'FAIL', null: '    ' };
    return this.lines
      .map(({ name, figure, bound, ok }) =>
        `${mark[`${ok}`]} ${name.padEnd(width)}  ${figure.padEnd(figures)}  ${bound}`.trimEnd(),
      )
      .join('\n');
  }

  /** The table, and how many of its lines hold. */
  summary(file: string): string {
    return `${this.table()}\n\n${this.passed} hold, ${this.failed} do not; written to ${file}`;
  }

  /**
   * A ratio to a ceiling or a peer. Where `withheld` says why it would mean nothing, the key is null and the reason stands
   * beside it.
   */
  ratio(key: string, value: number, withheld: string | null): void {
    this.keys[key] = withheld === null ? value : null;
    if (withheld !== null) this.keys[`${key}_withheld`] = withheld;
  }

  /** Writes keys and lines as JSON. */
  save(file: string): void {
    mkdirSync(path.dirname(file), { recursive: true });
    const { passed, failed, keys, lines } = this;
    writeFileSync(file, `${JSON.stringify({ ...keys, passed, failed, lines }, null, 2)}\n`);
  }

  #add(line: Line): void {
    this.lines.push(line);
    const mark = line.ok === null ? '  ' : line.ok ? 'ok' : 'FAIL';
    process.stderr.write(`${mark} ${line.name}: ${line.figure}${line.bound ? ` (${line.bound})` : ''}\n`);
  }
}

/** A report as save() left it; empty where nothing was saved. */
export function load(file: string): Report {
  const report = new Report();
  let saved: Record<string, unknown>;
  try {
    saved = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return report;
  }
  const { lines, passed, failed, ...keys } = saved;
  report.lines.push(...(lines as Line[]));
  Object.assign(report.keys, keys);
  return report;
}

/** What every section of the check gets. */
export interface Context {
  report: Report;
  /** Why ratios to the product's ceiling and to PEFT mean nothing in this run; null: they are told. */
  withheld: string | null;
  /** Milliseconds of performance.now() after which benchmarks are left out. */
  deadline: number;
}

export const scientific = (value: number) => value.toExponential(2);
