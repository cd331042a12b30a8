/**
 * Public identifiers: a readable prefix and random base62 characters, so ids tell nothing about order or amount.
 */
import { randomBytes } from 'node:crypto';

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** `length` characters drawn evenly from base62 (bytes ≥ 248 are thrown away: 248 = 4 · 62). */
export function randomBase62(length: number): string {
  let text = '';
  while (text.length < length) {
    for (const byte of randomBytes(length + 8)) {
      if (byte < 248 && text.length < length) text += ALPHABET[byte % 62];
    }
  }
  return text;
}

export type IdPrefix =
  | 'file-'
  | 'upload_'
  | 'part_'
  | 'export_'
  | 'import_'
  | 'batch_'
  | 'batch_req_'
  | 'ftjob-'
  | 'ftevent-'
  | 'ftckpt_'
  | 'chatcmpl-'
  | 'cmpl-'
  | 'org-'
  | 'proj_'
  | 'req_'
  | 'call_'
  | 'cp_'
  | 'whe_'
  | 'worker_'
  | 'svc_acct_';

/** A new public id: prefix + 24 base62 characters (143 bits). */
export function newId(prefix: IdPrefix): string {
  return prefix + randomBase62(24);
}

/** The last segment of a tuned model's name: 8 base62 characters; unique by the table's primary key. */
export function newModelTail(): string {
  return randomBase62(8);
}
