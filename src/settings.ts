/**
 * The table of settings: environment variable, meaning, range and default of each. What they mean together, and the
 * reading of the environment, is config.ts.
 */
import { LIMITS } from './settings/limits.ts';
import { SERVICE } from './settings/service.ts';
import { WORKERS } from './settings/workers.ts';

/** One entry per setting; the name is the field of `Config`. */
export const SETTINGS = { ...SERVICE, ...LIMITS, ...WORKERS };
