/**
 * Turns a stream of token ids into text as it grows. A character whose bytes span tokens comes out once, complete.
 */

/** What the decoder needs of a tokenizer. */
export interface TokenBytes {
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
}

export class StreamDecoder {
  private readonly tokenizer: TokenBytes;
  private readonly decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  private readonly skipSpecial: boolean;

  constructor(tokenizer: TokenBytes, options: { skipSpecial?: boolean } = {}) {
    this.tokenizer = tokenizer;
    this.skipSpecial = options.skipSpecial ?? true;
  }

  /** The text that this id completes: '' while a character is still open. Bytes that can never be UTF-8 become U+FFFD. */
  push(id: number): string {
    if (this.skipSpecial && this.tokenizer.isSpecial(id)) return '';
    return this.decoder.decode(this.tokenizer.tokenBytes(id), { stream: true });
  }

  /** Ends the stream: an unfinished character becomes U+FFFD. The decoder can then be used again. */
  flush(): string {
    return this.decoder.decode();
  }
}
