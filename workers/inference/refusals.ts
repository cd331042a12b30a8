/** Errors that the engine itself answers with, in the wire's terms. */
import { WORKER_LOST, type WorkerError } from '../../src/inference/protocol.ts';

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

/** The step did not fit into memory even with this request alone. */
export function outOfMemory(): WorkerError {
  return {
    status: 503,
    type: 'service_unavailable_error',
    code: 'out_of_memory',
    param: null,
    message: 'There is not enough memory for this request at the moment. Please try again, or shorten it.',
    retry_after_seconds: 5,
  };
}

/** No token of this model's vocabulary can go on: the schema asks for text that cannot be written. */
export function grammarDeadEnd(): WorkerError {
  return {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_json_schema',
    param: 'response_format',
    message: 'No text that this model can write fits the schema.',
  };
}

/** The thread that follows the grammar was lost and could not be replaced. */
export function grammarLost(): WorkerError {
  return {
    status: 503,
    type: 'service_unavailable_error',
    code: 'grammar_lost',
    param: null,
    message: 'Constrained decoding is not available at the moment. Please try again.',
    retry_after_seconds: 2,
  };
}

export function engineLost(): WorkerError {
  return {
    status: 503,
    type: 'service_unavailable_error',
    code: WORKER_LOST,
    param: null,
    message: 'The worker that was generating this answer has stopped. Please try again.',
    retry_after_seconds: 1,
  };
}
