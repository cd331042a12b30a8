/**
 * Tells the tool calls in a generation's text: takes the engine's events and gives the ones that the reader gets.
 * Knows events and the parser; must not know tokens or sockets.
 */
import type { GenerateEvent } from '../../../src/inference/protocol.ts';
import type { ToolFormat } from './format.ts';
import { type Part, ToolCallParser } from './parser.ts';

export class ToolEvents {
  readonly #parsers: ToolCallParser[];

  constructor(choices: number, format: ToolFormat, names: readonly string[]) {
    this.#parsers = Array.from({ length: choices }, () => new ToolCallParser(format, names));
  }

  /** The events in place of `event`; records of tokens stay with the first of them. */
  translate(event: GenerateEvent): GenerateEvent[] {
    if (event.type === 'delta') {
      const { index, tokens } = event;
      const told = this.#tell(index, this.#parsers[index]!.push(event.text));
      if (tokens.length === 0) return told;
      const first = told[0];
      if (first?.type === 'delta') return [{ ...first, tokens }, ...told.slice(1)];
      return [{ type: 'delta', index, text: '', tokens }, ...told];
    }
    if (event.type !== 'finish') return [event];
    const parser = this.#parsers[event.index]!;
    const rest = this.#tell(event.index, parser.finish());
    const called = parser.calls > 0 && event.reason === 'stop';
    return [...rest, called ? { ...event, reason: 'tool_calls' } : event];
  }

  #tell(index: number, parts: Part[]): GenerateEvent[] {
    const parser = this.#parsers[index]!;
    // The calls in `parts` are the last of all that the parser has counted.
    let call = parser.calls - parts.filter(({ type }) => type === 'call').length - 1;
    return parts.map((part): GenerateEvent => {
      if (part.type === 'text') return { type: 'delta', index, text: part.text, tokens: [] };
      if (part.type === 'arguments') return { type: 'tool_arguments', index, call, text: part.text };
      return { type: 'tool_call', index, call: ++call, name: part.name };
    });
  }
}
