/** Parameters that every way of asking a model for text has alike. */
import { z } from '@hono/zod-openapi';
import { INTEGER_BOUND } from '../../domain/jobs/parameters.ts';

export const penaltySchema = z.number().min(-2).max(2).nullish();

export const logitBiasSchema = z
  .record(z.string().regex(/^(0|[1-9]\d{0,8})$/, 'expected a token id'), z.number().min(-100).max(100))
  .refine((bias) => Object.keys(bias).length <= 1024, 'expected at most 1024 entries.')
  .nullish();

export const stopSchema = z
  .union([z.string().min(1).max(256), z.array(z.string().min(1).max(256)).max(4)])
  .nullish();

export const seedSchema = z
  .number()
  .multipleOf(1)
  .min(-(2 ** 63), INTEGER_BOUND)
  .max(2 ** 63, INTEGER_BOUND)
  .nullish();
