/** 404: unknown and foreign ids are answered alike. */
import { ApiError } from './api-error.ts';

export function noSuchFile(id: string): ApiError {
  return new ApiError({ status: 404, message: `No such File object: ${id}`, param: 'id' });
}

export function noSuchUpload(id: string): ApiError {
  return new ApiError({ status: 404, message: `No such Upload object: ${id}`, param: 'upload_id' });
}

export function noSuchExport(id: string): ApiError {
  return new ApiError({ status: 404, message: `No such export: ${id}`, param: 'export_id' });
}

export function noSuchJob(id: string): ApiError {
  const message = `Could not find fine tune: ${id}`;
  return new ApiError({ status: 404, message, param: 'fine_tune_id', code: 'fine_tune_not_found' });
}

export function noSuchBatch(id: string): ApiError {
  return new ApiError({ status: 404, message: `No batch found with id '${id}'.` });
}

export function modelNotFound(id: string): ApiError {
  const message = `The model '${id}' does not exist`;
  return new ApiError({ status: 404, message, param: 'model', code: 'model_not_found' });
}

export function noSuchWebhook(id: string): ApiError {
  const message = `No such webhook endpoint: ${id}`;
  return new ApiError({
    status: 404,
    message,
    param: 'webhook_endpoint_id',
    code: 'webhook_endpoint_not_found',
  });
}

export function noSuchPermission(id: string): ApiError {
  return new ApiError({
    status: 404,
    message: `No such checkpoint permission: ${id}`,
    param: 'permission_id',
    code: 'permission_not_found',
  });
}

export function noSuchProject(id: string): ApiError {
  const message = `No such project: ${id}`;
  return new ApiError({ status: 404, message, param: 'project_id', code: 'project_not_found' });
}

export function noSuchApiKey(id: string): ApiError {
  const message = `No such API key: ${id}`;
  return new ApiError({ status: 404, message, param: 'api_key_id', code: 'api_key_not_found' });
}

export function noSuchServiceAccount(id: string): ApiError {
  const message = `No such service account: ${id}`;
  return new ApiError({
    status: 404,
    message,
    param: 'service_account_id',
    code: 'service_account_not_found',
  });
}

export function noSuchRateLimit(id: string): ApiError {
  const message = `No such rate limit: ${id}`;
  return new ApiError({ status: 404, message, param: 'rate_limit_id', code: 'rate_limit_not_found' });
}

export function unknownUrl(method: string, path: string): ApiError {
  const message = `Unknown request URL: ${method} ${path}. Please check the URL for typos, or see /docs.`;
  return new ApiError({ status: 404, message, code: 'unknown_url' });
}
