/** Faults of a data file, as the job reports them: a code, the line, the field and one sentence. */

export interface DataIssue {
  /** 1-based line of the file; null when the fault is the file's as a whole. */
  line: number | null;
  code: string;
  message: string;
  /** Path of the field inside the line ("messages[1].content"), or null. */
  param: string | null;
}

/** Called for every fault found in one row. `path` is '' for the row itself. */
export type Report = (code: string, path: string, message: string) => void;

/** Passes faults on and knows how many there were. */
export function countingReport(report: Report): { report: Report; faults: () => number } {
  let faults = 0;
  const counted: Report = (code, path, message) => {
    faults++;
    report(code, path, message);
  };
  return { report: counted, faults: () => faults };
}

/** Keeps the first faults and counts the rest, so a file of nothing but faults costs no memory. */
export class IssueList {
  readonly first: DataIssue[] = [];
  total = 0;
  private readonly limit: number;

  constructor(limit = 100) {
    this.limit = limit;
  }

  add(line: number | null, code: string, path: string, message: string): void {
    this.total++;
    if (this.first.length >= this.limit) return;
    const where = line === null ? '' : path === '' ? `line ${line}: ` : `line ${line}, ${path}: `;
    this.first.push({ line, code, message: where + message, param: path === '' ? null : path });
  }
}

/** The start of a bad line, safe to show: at most 80 characters, control characters escaped. */
export function excerpt(text: string): string {
  const start = text.slice(0, 80).toWellFormed();
  return start.replace(/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, (c) => {
    return `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
