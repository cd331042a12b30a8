/**
 * Figures for Prometheus: durations by route pattern, and the state of the queue asked from the database at scrape
 * time. Labels are patterns and states, never ids.
 */
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Dependencies } from '../domain/dependencies.ts';
import { countJobs } from '../domain/jobs/repository.ts';

export interface Metrics {
  observe(method: string, route: string, status: number, seconds: number): void;
  /** The text exposition and its content type. */
  expose(): Promise<{ body: string; contentType: string }>;
}

const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120];

/** Figures of the process itself, shared by every app in it. */
let processRegistry: Registry | null = null;

export function createMetrics({ database }: Pick<Dependencies, 'database'>): Metrics {
  if (!processRegistry) {
    processRegistry = new Registry();
    collectDefaultMetrics({ register: processRegistry });
  }
  const registry = new Registry();
  const durations = new Histogram({
    name: 'lathe_http_request_duration_seconds',
    help: 'Time from the request to the headers of its answer.',
    labelNames: ['method', 'route', 'status'],
    buckets: BUCKETS,
    registers: [registry],
  });
  const jobs = new Gauge({
    name: 'lathe_jobs',
    help: 'Jobs by status.',
    labelNames: ['status'],
    registers: [registry],
  });
  const waiting = new Gauge({
    name: 'lathe_queue_depth',
    help: 'Jobs that could start now if a trainer were free.',
    registers: [registry],
  });
  const all = Registry.merge([processRegistry, registry]);
  return {
    observe: (method, route, status, seconds) => durations.observe({ method, route, status }, seconds),
    expose: async () => {
      const counts = await countJobs(database.db);
      jobs.reset();
      for (const { status, count } of counts.byStatus) jobs.set({ status }, count);
      waiting.set(counts.waiting);
      return { body: await all.metrics(), contentType: all.contentType };
    },
  };
}
