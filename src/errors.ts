/**
 * The catalogue of public errors: one class, and one function per kind of mistake, with OpenAI's status, type, code and
 * wording. A broken invariant is not in here: it throws a plain Error and is answered as 500.
 */
export * from './errors/access.ts';
export * from './errors/api-error.ts';
export * from './errors/invalid-request.ts';
export * from './errors/not-found.ts';
export * from './errors/refused.ts';
export * from './errors/unavailable.ts';
