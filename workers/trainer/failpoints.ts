/**
 * Named places where a test makes a process die, hang or throw. Nothing is armed unless `--failpoint` was given on the
 * command line (or the option in code): a normal run holds an empty table.
 */

/**
 * `hang` blocks the thread, `throw` fails, `full` fails once as a disk without room does. The others are signals that a
 * process sends itself: `kill` and `segfault` end it, `stop` freezes it, `term` asks it to leave.
 */
const SIGNALS = { kill: 'SIGKILL', segfault: 'SIGSEGV', stop: 'SIGSTOP', term: 'SIGTERM' } as const;
const FAILPOINT_ACTIONS = ['kill', 'segfault', 'stop', 'term', 'hang', 'throw', 'full'] as const;
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
  #armed: readonly Failpoint[];

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
    if (point.action === 'full') {
      this.#armed = this.#armed.filter((armed) => armed !== point); // there is room at the next attempt
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    }
    if (point.action !== 'hang') process.kill(process.pid, SIGNALS[point.action]);
    if (point.action === 'stop' || point.action === 'term') return;
    // A hang blocks the thread as a stuck native call would. A deadly signal needs a moment to arrive.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  }
}
