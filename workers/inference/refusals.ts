/** Errors that the engine itself answers with, in the wire's terms. */
import type { WorkerError } from '../../src/inference/protocol.ts';

export function modelUnavailable(model: string, why: string, retryAfterSeconds: number): WorkerError {
  return {
    status: 503,
    type: 'service_unavailable_error',
    code: 'model_unavailable',
    param: 'model',
    message: `The model '${model}' cannot be served at the moment: ${why}`,
    retry_after_seconds: retryAfterSeconds,
  };
}

/** The numbers of this request's model (its adapter, usually) broke down; others are not concerned. */
export function modelNotFinite(model: string | null): WorkerError {
  const what = model === null ? 'The model' : `The model '${model}'`;
  return {
    status: 500,
    type: 'server_error',
    code: 'model_not_finite',
    param: null,
    message: `${what} produced numbers that are not finite, so there is no next token.`,
  };
}

export function engineLost(): WorkerError {
  return {
    status: 503,
    type: 'service_unavailable_error',
    code: 'worker_lost',
    param: null,
    message: 'The worker that was generating this answer has stopped. Please try again.',
    retry_after_seconds: 1,
  };
}
