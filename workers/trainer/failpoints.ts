/**
 * Named places where a test makes a process die, hang or throw. Nothing is armed unless `--failpoint` was given on the
 * command line (or the option in code): a normal run holds an empty table.
 */

export const FAILPOINT_ACTIONS = ['kill', 'hang', 'throw', 'segfault'] as const;
export type FailpointAction = (typeof FAILPOINT_ACTIONS)[number];

export interface Failpoint {
  /** e.g. `child.step.7`, `checkpoint.4.before_rename`, `publish.after_commit` */
  name: string;
  /** Fires in this claim of the job only (its epoch); null in every one. */
  epoch: number | null;
  action: FailpointAction;
}

/** Reads `name=action` or `name@epoch=action`. @throws with the text that is wrong. */
export function parseFailpoint(text: string): Failpoint {
  const match = /^([a-z0-9_.]+)(?:@(\d+))?=([a-z]+)$/.exec(text);
  const action = FAILPOINT_ACTIONS.find((known) => known === match?.[3]);
  if (!match || !action) {
    throw new Error(`--failpoint '${text}' is not name[@epoch]=${FAILPOINT_ACTIONS.join('|')}`);
  }
  return { name: match[1]!, epoch: match[2] ? Number(match[2]) : null, action };
}

/** The failpoints of one attempt. */
export class Failpoints {
  readonly #armed: readonly Failpoint[];

  constructor(all: readonly Failpoint[], epoch: number) {
    this.#armed = all
      .filter((point) => point.epoch === null || point.epoch === epoch)
      .map((point) => ({ ...point, epoch: null }));
  }

  /** What this attempt's child needs to be told. */
  get armed(): readonly Failpoint[] {
    return this.#armed;
  }

  /** Marks a place in the code; does nothing unless a test armed it. */
  hit(name: string): void {
    const point = this.#armed.find((armed) => armed.name === name);
    if (!point) return;
    if (point.action === 'throw') throw new Error(`failpoint ${name}`);
    if (point.action === 'kill') process.kill(process.pid, 'SIGKILL');
    if (point.action === 'segfault') process.kill(process.pid, 'SIGSEGV');
    // Hang: the thread blocks as a stuck native call would. After a kill: the signal needs a moment to arrive.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  }
}
