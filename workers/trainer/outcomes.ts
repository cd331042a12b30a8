/** The ways in which an attempt ends without a result, as errors that the story of a job throws. */
import type { JobError } from '../../src/queue/queue.ts';

/** The job is at fault: it fails and is not tried again. */
export class JobFailed extends Error {
  override name = 'JobFailed';
  readonly error: JobError;
  /** One event each, in front of the error. */
  readonly details: readonly { message: string; data: Record<string, unknown> }[];

  constructor(error: JobError, details: JobFailed['details'] = []) {
    super(error.message);
    this.error = error;
    this.details = details;
  }
}

/** The child died, hung, or its device broke: the job is tried again while its crash budget lasts. */
export class ChildCrashed extends Error {
  override name = 'ChildCrashed';
}

/** The user asked to pause: the job rests and continues later from its newest checkpoint. */
export class Paused extends Error {
  override name = 'Paused';
}

/** This worker is leaving: the job goes back to the queue at once. */
export class HandedOver extends Error {
  override name = 'HandedOver';
}
