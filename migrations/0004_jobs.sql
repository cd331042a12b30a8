-- Pause and resume, jobs that continue from a tuned model, metadata filters, shared checkpoints, webhooks.

ALTER TABLE "fine_tuning_jobs" ADD COLUMN "pause_requested_at" timestamp with time zone;
--> statement-breakpoint
ALTER TABLE "fine_tuning_jobs" ADD COLUMN "integrations" jsonb;
--> statement-breakpoint
ALTER TABLE "fine_tuning_jobs" ADD COLUMN "start" jsonb;
--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_metadata" ON "fine_tuning_jobs" USING gin ("metadata" jsonb_path_ops) WHERE metadata IS NOT NULL;
--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_no_metadata" ON "fine_tuning_jobs" USING btree ("project_id","created_at","id") WHERE coalesce(metadata, '{}'::jsonb) = '{}'::jsonb;
--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_start" ON "fine_tuning_jobs" USING btree (("start"->>'storage_prefix')) WHERE "start" IS NOT NULL;
--> statement-breakpoint
-- The queue: what waits for each base model, in the order it is taken, and what is held, in the order its leases end. Both stay small beside
-- a deep queue's other part.
DROP INDEX "fine_tuning_jobs_claim";
--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_waiting" ON "fine_tuning_jobs" USING btree ("model","priority","created_at","id") WHERE status in ('validating_files', 'queued', 'running') AND worker_id IS NULL;
--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_held" ON "fine_tuning_jobs" USING btree ("lease_until") WHERE worker_id IS NOT NULL;
--> statement-breakpoint
-- The next job for a worker with these base models, locked; NULL when none waits. It compares the first job of each
-- model, so jobs that wait for other models cost nothing. The settings make it walk the index whatever the statistics
-- say: before the first ANALYZE of a deep queue the planner would rather sort all of it.
CREATE FUNCTION lathe_next_job(models text[]) RETURNS text
LANGUAGE plpgsql SET enable_sort = off SET enable_bitmapscan = off SET enable_seqscan = off AS $$
BEGIN
  RETURN (
    SELECT first.id FROM unnest(models) AS m(name) CROSS JOIN LATERAL (
      SELECT j.id, j.priority, j.created_at FROM fine_tuning_jobs j
      WHERE j.status IN ('validating_files', 'queued', 'running') AND j.worker_id IS NULL
        AND j.cancel_requested_at IS NULL AND j.run_after <= clock_timestamp() AND j.model = m.name
      ORDER BY j.priority, j.created_at, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) first
    ORDER BY first.priority, first.created_at, first.id LIMIT 1);
END
$$;
--> statement-breakpoint
CREATE TABLE "checkpoint_permissions" (
	"id" text PRIMARY KEY NOT NULL,
	"owner_project_id" text NOT NULL,
	"model" text NOT NULL,
	"project_id" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "checkpoint_permissions" ADD CONSTRAINT "checkpoint_permissions_owner_fk" FOREIGN KEY ("owner_project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;
--> statement-breakpoint
ALTER TABLE "checkpoint_permissions" ADD CONSTRAINT "checkpoint_permissions_project_fk" FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;
--> statement-breakpoint
ALTER TABLE "checkpoint_permissions" ADD CONSTRAINT "checkpoint_permissions_model_fk" FOREIGN KEY ("model") REFERENCES "tuned_models"("id") ON DELETE no action ON UPDATE no action;
--> statement-breakpoint
CREATE UNIQUE INDEX "checkpoint_permissions_once" ON "checkpoint_permissions" USING btree ("model","project_id");
--> statement-breakpoint
CREATE TABLE "webhook_endpoints" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text NOT NULL,
	"name" text NOT NULL,
	"url" text NOT NULL,
	"event_types" text[] NOT NULL,
	"secret" text NOT NULL,
	"old_secret" text,
	"old_secret_until" timestamp with time zone,
	"failing_since" timestamp with time zone,
	"disabled_at" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"deleted_at" timestamp with time zone
);
--> statement-breakpoint
ALTER TABLE "webhook_endpoints" ADD CONSTRAINT "webhook_endpoints_project_fk" FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;
--> statement-breakpoint
CREATE INDEX "webhook_endpoints_list" ON "webhook_endpoints" USING btree ("project_id","created_at","id") WHERE deleted_at IS NULL;
--> statement-breakpoint
CREATE TABLE "webhook_deliveries" (
	"id" text PRIMARY KEY NOT NULL,
	"endpoint_id" text NOT NULL,
	"project_id" text NOT NULL,
	"event_id" text NOT NULL,
	"event_type" text NOT NULL,
	"body" text NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"next_attempt_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"last_status" integer,
	"last_error" text,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"delivered_at" timestamp with time zone,
	"abandoned_at" timestamp with time zone
);
--> statement-breakpoint
ALTER TABLE "webhook_deliveries" ADD CONSTRAINT "webhook_deliveries_endpoint_fk" FOREIGN KEY ("endpoint_id") REFERENCES "webhook_endpoints"("id") ON DELETE no action ON UPDATE no action;
--> statement-breakpoint
CREATE INDEX "webhook_deliveries_due" ON "webhook_deliveries" USING btree ("endpoint_id","next_attempt_at") WHERE delivered_at IS NULL AND abandoned_at IS NULL;
--> statement-breakpoint
CREATE INDEX "webhook_deliveries_ended" ON "webhook_deliveries" USING btree ("created_at") WHERE delivered_at IS NOT NULL OR abandoned_at IS NOT NULL;
--> statement-breakpoint
-- Puts an event into the outbox of every endpoint of the project that wants it. Called in the transaction that makes
-- the event true: both are there or neither is. `object_id` is what the event is about (a job, a batch).
CREATE FUNCTION lathe_emit_webhook(target_project text, type_of_event text, object_id text) RETURNS void
LANGUAGE sql AS $$
  WITH event AS (
    SELECT 'evt_' || replace(gen_random_uuid()::text, '-', '') AS id,
      floor(extract(epoch FROM clock_timestamp()))::bigint AS created_at
  )
  INSERT INTO webhook_deliveries (id, endpoint_id, project_id, event_id, event_type, body)
  SELECT 'whd_' || replace(gen_random_uuid()::text, '-', ''), e.id, e.project_id, event.id, type_of_event,
    json_build_object('id', event.id, 'object', 'event', 'created_at', event.created_at, 'type', type_of_event,
      'data', json_build_object('id', object_id))::text
  FROM webhook_endpoints e, event
  WHERE e.project_id = target_project AND e.deleted_at IS NULL AND e.disabled_at IS NULL
    AND type_of_event = ANY (e.event_types);
$$;
--> statement-breakpoint
-- A job that waits for a worker is still to be validated: it may be paused too, and is validated after the resume.
CREATE OR REPLACE FUNCTION lathe_transition_allowed(from_status text, to_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE from_status
    WHEN 'validating_files' THEN to_status IN ('queued', 'paused', 'failed', 'cancelled')
    WHEN 'queued' THEN to_status IN ('running', 'paused', 'failed', 'cancelled')
    WHEN 'running' THEN to_status IN ('succeeded', 'paused', 'failed', 'cancelled')
    WHEN 'paused' THEN to_status IN ('queued', 'cancelled')
    ELSE false
  END
$$;
--> statement-breakpoint
-- As in 0001, and: a pause request is over when the job pauses or ends, an estimate holds while the job runs, and the
-- end of a job is told to the project's webhooks.
CREATE OR REPLACE FUNCTION lathe_transition(target_job text, to_status text, holder_epoch integer, holder_worker text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  is_end boolean := to_status IN ('succeeded', 'failed', 'cancelled');
  rests boolean := to_status IN ('succeeded', 'failed', 'cancelled', 'paused');
  owner_project text;
BEGIN
  UPDATE fine_tuning_jobs j SET
    status = to_status,
    started_at = CASE WHEN to_status = 'running' THEN coalesce(j.started_at, clock_timestamp()) ELSE j.started_at END,
    finished_at = CASE WHEN is_end THEN clock_timestamp() END,
    estimated_finish = CASE WHEN to_status = 'running' THEN j.estimated_finish END,
    pause_requested_at = CASE WHEN rests THEN NULL ELSE j.pause_requested_at END,
    worker_id = CASE WHEN rests THEN NULL ELSE j.worker_id END,
    lease_until = CASE WHEN rests THEN NULL ELSE j.lease_until END
  WHERE j.id = target_job
    AND (holder_epoch IS NULL OR (j.epoch = holder_epoch AND j.worker_id = holder_worker))
    AND lathe_transition_allowed(j.status, to_status)
  RETURNING j.project_id INTO owner_project;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF is_end THEN
    PERFORM lathe_offer_checkpoints(target_job);
    PERFORM lathe_emit_webhook(owner_project, 'fine_tuning.job.' || to_status, target_job);
  END IF;
  RETURN true;
END
$$;
