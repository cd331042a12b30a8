/**
 * What of an error may stand in a log line. A failed statement carries the values it was called with (prompts, secrets,
 * URLs), in its message, its stack and the server's details: its text, code and names stay, the values go.
 */

/** The server's fields about a failed statement that name things of the schema, and no value. */
const NAMES = ['code', 'severity', 'schema', 'table', 'column', 'constraint', 'routine', 'position'] as const;
/** Of all other errors these are told too; whatever else an error carries may be anybody's. */
const FACTS = ['code', 'errno', 'syscall', 'status', 'statusCode', 'param', 'type'] as const;
/** SQLSTATE class 22 (data exceptions) and invalid casts quote the value at the message's end. */
const QUOTED = /: ".*"?$/s;
const DEPTH_MAX = 5;

type Fields = Record<string, unknown>;

/** The error as the fields of a log line; anything else as it is. */
export function errorForLog(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return error;
  const message = messageWithoutValues(error);
  const told: Fields = { type: error.name, message, stack: stackWithoutValues(error, message) };
  for (const name of isFromServer(error) ? NAMES : FACTS) {
    const value = (error as unknown as Fields)[name];
    if (typeof value === 'string' || typeof value === 'number') told[name === 'type' ? 'kind' : name] = value;
  }
  if (depth >= DEPTH_MAX) return told;
  if (error.cause !== undefined) told.cause = errorForLog(error.cause, depth + 1);
  if (error instanceof AggregateError)
    told.errors = error.errors.slice(0, DEPTH_MAX).map((each) => errorForLog(each, depth + 1));
  return told;
}

/** An error that Postgres sent: it has a severity and a SQLSTATE. */
const isFromServer = (error: Error): boolean =>
  typeof (error as unknown as Fields).severity === 'string' && 'routine' in error;

function messageWithoutValues(error: Error): string {
  const { query, params } = error as unknown as Fields;
  if (typeof query === 'string' && Array.isArray(params)) return `Failed query: ${query}`;
  return isFromServer(error) ? error.message.replace(QUOTED, ': "[redacted]"') : error.message;
}

/** A stack begins with the message, which may be of many lines. */
function stackWithoutValues({ message, stack = '' }: Error, clean: string): string {
  if (message === clean) return stack;
  const at = stack.indexOf(message);
  return at < 0 ? clean : stack.slice(0, at) + clean + stack.slice(at + message.length);
}
