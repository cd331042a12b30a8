/**
 * The end of the server's drain, as the answers that are still under way hear of it: on their own request, so nobody
 * keeps a list. Knows neither sockets nor routes.
 */
import type { IncomingMessage } from 'node:http';
import { type ApiError, overloaded } from '../errors.ts';
import type { AppContext } from './context.ts';

const DRAIN_OVER = 'drain over';
const RETRY_SECONDS = 5;

/** What a client is told while the server goes down. */
export function restarting(): ApiError {
  return overloaded('The server is restarting. Please try again in a moment.', RETRY_SECONDS);
}

export function tellDrainOver(open: Iterable<IncomingMessage>): void {
  for (const request of open) request.emit(DRAIN_OVER);
}

/** Calls `end` with the error to answer with, should the drain be over before the answer. */
export function onDrainOver(c: AppContext, end: (error: ApiError) => void): void {
  (c.env?.incoming as IncomingMessage | undefined)?.once(DRAIN_OVER, () => end(restarting()));
}
