/** What a setting is, and the kinds of values that the environment can give it. */
import { z } from 'zod';

export const text = () => z.string();
export const flag = () =>
  z
    .enum(['0', '1', 'false', 'true'], { error: 'expected true or false' })
    .transform((v) => v === '1' || v === 'true');
export const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^-?\d+$/, `expected a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `expected a whole number from ${min} to ${max}`);
export const url = (protocols: string[]) =>
  z.string().refine(
    (value) => {
      return URL.canParse(value) && protocols.includes(new URL(value).protocol);
    },
    `expected a URL that starts with ${protocols.map((p) => `${p}//`).join(' or ')}`,
  );
export const seconds = (list: z.ZodString) =>
  list
    .regex(/^\d+(\.\d+)?(,\d+(\.\d+)?)*$/, 'expected seconds separated by commas, such as 1,10,60')
    .transform((v) => v.split(',').map(Number));

const ORIGIN = /^(\*|[a-z][a-z\d+.-]*:\/\/[^\s/?#@]+)$/;
export const origins = () =>
  z
    .string()
    .transform((v) =>
      v
        .split(',')
        .map((item) => item.trim().toLowerCase())
        .filter(Boolean),
    )
    .refine(
      (list) => list.every((item) => ORIGIN.test(item)),
      "expected '*' or origins such as https://app.example.com, separated by commas",
    );

/** Keys of AES-256, in base64. */
export const aesKeys = () =>
  z
    .string()
    .transform((v) => v.split(',').map((item) => item.trim()))
    .refine(
      (keys) => keys.every((key) => /^[A-Za-z0-9+/]{43}=$/.test(key)),
      'expected 32 bytes in base64 (`openssl rand -base64 32` makes them), several separated by commas',
    );

/** One setting. */
export interface Entry<S extends z.ZodType = z.ZodType> {
  env: string;
  doc: string;
  schema: S;
  default: z.output<S> | null;
  /** Set, an empty variable is a value and not the same as an unset one. */
  mayBeEmpty?: true;
}

export const entry = <S extends z.ZodType, D extends z.output<S> | null>(
  env: string,
  doc: string,
  schema: S,
  fallback: D,
) => ({
  env,
  doc,
  schema,
  default: fallback as D extends null ? z.output<S> | null : z.output<S>,
});
