/** What every sweep is given. */
import type { Dependencies } from '../dependencies.ts';

export interface SweepContext extends Dependencies {
  /** Aborted when the process is to end: stop at the next item. */
  signal: AbortSignal;
}
