/**
 * Writes GenerateEvents as newline-delimited JSON with a bound on what a slow reader can make us hold.
 * Knows one HTTP response; must not know where events come from.
 */
import type { ServerResponse } from 'node:http';
import type { GenerateEvent } from '../../src/inference/protocol.ts';

export interface EventStreamLimits {
  /** Unsent bytes at which the reader is given up. */
  maxBufferedBytes: number;
  /** Time without any progress of a full buffer at which the reader is given up. */
  stallMilliseconds: number;
}

export class EventStream {
  readonly #response: ServerResponse;
  readonly #limits: EventStreamLimits;
  readonly #onSlow: () => void;
  #stall: NodeJS.Timeout | null = null;
  #over = false;

  /** `onSlow` is called at most once, when the reader is given up; the connection is cut then. */
  constructor(response: ServerResponse, limits: EventStreamLimits, onSlow: () => void) {
    this.#response = response;
    this.#limits = limits;
    this.#onSlow = onSlow;
    response.writeHead(200, {
      'content-type': 'application/x-ndjson; charset=utf-8',
      'cache-control': 'no-store',
    });
    response.on('drain', () => this.#clearStall());
    response.on('close', () => this.#close());
  }

  write(event: GenerateEvent): void {
    if (this.#over) return;
    const flowing = this.#response.write(`${JSON.stringify(event)}\n`);
    if (this.#response.writableLength > this.#limits.maxBufferedBytes) this.#giveUp();
    else if (!flowing) this.#stall ??= setTimeout(() => this.#giveUp(), this.#limits.stallMilliseconds);
  }

  /** Sends what is left and ends the response. */
  end(): void {
    if (this.#over) return;
    this.#over = true; // the stall timer keeps running: a reader that never takes the rest is cut too
    this.#response.end();
  }

  #giveUp(): void {
    this.#close();
    this.#response.destroy();
    this.#onSlow();
  }

  #close(): void {
    this.#over = true;
    this.#clearStall();
  }

  #clearStall(): void {
    if (this.#stall) clearTimeout(this.#stall);
    this.#stall = null;
  }
}
