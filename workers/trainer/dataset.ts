/**
 * Reads the job's files into datasets, or says everything that is wrong with them in OpenAI's terms. Uses no device and
 * no database.
 */
import type { Dataset } from '../engine/data/dataset.ts';
import type { DataIssue } from '../engine/data/issues.ts';
import { type DataReport, loadDataset } from '../engine/data/validate.ts';
import { loadTokenizer } from '../engine/tokenizer/load.ts';
import { type FailureDetail, TrainingFailed } from './failures.ts';
import type { DataSummary, Prepared, PrepareRequest } from './messages.ts';

export interface JobData {
  training: Dataset;
  validation: Dataset | null;
}

const FILES = {
  training_file: { what: 'Training file', called: 'training file' },
  validation_file: { what: 'Validation file', called: 'validation file' },
} as const;
type FileParam = keyof typeof FILES;

/** Reads both files. @throws TrainingFailed with one detail per bad line (the first 100 of each file). */
export async function readJobData(request: PrepareRequest): Promise<{ data: JobData; prepared: Prepared }> {
  const tokenizer = loadTokenizer(request.modelDir);
  const read = (file: string, param: FileParam, minExamples: number) =>
    loadDataset(file, tokenizer, {
      maxLength: request.maxLength,
      overlong: request.overlong,
      minExamples,
      what: FILES[param].what,
      method: request.method,
      fileId: request.fileIds[param] ?? undefined,
    });
  const training = await read(request.trainingPath, 'training_file', request.minExamples);
  const validation =
    request.validationPath === null ? null : await read(request.validationPath, 'validation_file', 1);
  const reports: [FileParam, DataReport][] = [['training_file', training.report]];
  if (validation) reports.push(['validation_file', validation.report]);
  refuseFaults(reports);
  return {
    data: { training: training.dataset, validation: validation?.dataset ?? null },
    prepared: {
      type: 'prepared',
      training: summaryOf(training.report, 'training_file'),
      validation: validation && summaryOf(validation.report, 'validation_file'),
    },
  };
}

function summaryOf(report: DataReport, param: FileParam): DataSummary {
  const { examples, tokens, labelledTokens, warnings } = report;
  return {
    examples,
    tokens,
    labelledTokens,
    warnings: warnings.map((w) => `${FILES[param].what}: ${w.message}`),
  };
}

/** @throws TrainingFailed whose error is the first fault of the first bad file and whose details are all of them */
function refuseFaults(reports: readonly [FileParam, DataReport][]): void {
  const bad = reports.filter(([, report]) => report.errorsTotal > 0);
  const [first] = bad;
  if (!first) return;
  const [param, report] = first;
  throw new TrainingFailed(
    jobError(param, report),
    bad.flatMap(([p, r]) => detailsOf(p, r)),
  );
}

function jobError(param: FileParam, report: DataReport): TrainingFailed['error'] {
  const issue = report.errors[0]!;
  // A fault of the file as a whole has its own code and sentence: too few examples, an empty file.
  if (issue.line === null) return { code: issue.code, message: issue.message, param };
  if (issue.code === 'invalid_file_format') {
    const why = `Invalid file format. Example ${issue.line} is missing key 'input'.`;
    const message = `The job failed due to a file format error in the ${FILES[param].called}. ${why}`;
    return { code: issue.code, message, param };
  }
  const others = report.errorsTotal - 1;
  const more = others === 0 ? '' : ` (and ${others} more, see the events of this job)`;
  const why = `Invalid file format. ${sentence(issue.message)}${more}`;
  return {
    code: `invalid_${param}`,
    message: `The job failed due to an invalid ${FILES[param].called}. ${why}`,
    param,
  };
}

function detailsOf(param: FileParam, report: DataReport): FailureDetail[] {
  const { what } = FILES[param];
  const details = report.errors.map((issue: DataIssue) => ({
    message: issue.line === null ? issue.message : `${what}, ${issue.message}`,
    data: { file: param, line: issue.line, code: issue.code, param: issue.param },
  }));
  const rest = report.errorsTotal - report.errors.length;
  if (rest > 0)
    details.push({
      message: `${what}: and ${rest} more errors`,
      data: { file: param, line: null, code: 'more', param: null },
    });
  return details;
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
