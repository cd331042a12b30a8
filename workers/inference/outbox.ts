/**
 * What a loop has to tell, in its order. Turning tokens into text and events costs the host time, so it is done when the
 * loop says: while a device that works ahead computes the next step. Knows events; must not know who reads them.
 */
import type { GenerateEvent } from '../../src/inference/protocol.ts';
import type { EngineEvent } from './generation.ts';

/** Makes an event when it is told; null: there is nothing to tell after all. */
export type Telling = () => GenerateEvent | null;

export class Outbox {
  readonly #deliver: (events: EngineEvent[]) => void;
  #waiting: { id: number; make: Telling }[] = [];

  /** `deliver` is called once for all that is told at a time, not at all when there is nothing. */
  constructor(deliver: (events: EngineEvent[]) => void) {
    this.#deliver = deliver;
  }

  /** Generation `id` has something to tell, after everything that was added before. */
  add(id: number, make: Telling): void {
    this.#waiting.push({ id, make });
  }

  /** Forgets what a generation has not told yet. */
  drop(id: number): void {
    this.#waiting = this.#waiting.filter((one) => one.id !== id);
  }

  /** Tells everything that waits. */
  tell(): void {
    const told = this.#waiting;
    this.#waiting = [];
    const events = told.flatMap(({ id, make }): EngineEvent[] => {
      const event = make();
      return event === null ? [] : [[id, event]];
    });
    if (events.length > 0) this.#deliver(events);
  }
}
