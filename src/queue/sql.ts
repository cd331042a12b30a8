/** Every statement of the queue, one function each. All times are the database's clock. */
export * from './sql/checkpoints.ts';
export * from './sql/events.ts';
export * from './sql/fence.ts';
export * from './sql/leases.ts';
export * from './sql/publication.ts';
