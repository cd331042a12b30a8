/** Times on the wire: whole Unix seconds. */
import { z } from '@hono/zod-openapi';

export const unixSeconds = z.int().openapi({ description: 'Unix time in seconds.', example: 1_764_000_000 });

export const toUnix = (time: Date): number => Math.floor(time.getTime() / 1000);
export const toUnixOrNull = (time: Date | null): number | null => (time ? toUnix(time) : null);
