CREATE TABLE "batches" (
  "id" text PRIMARY KEY,
  "project_id" text NOT NULL REFERENCES "projects"("id"),
  "key_id" text NOT NULL,
  "endpoint" text NOT NULL,
  "input_file_id" text NOT NULL,
  "completion_window" text NOT NULL,
  "metadata" jsonb,
  "output_expires_seconds" integer,
  "status" text NOT NULL CHECK ("status" IN
    ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled')),
  "errors" jsonb,
  "model" text,
  "total" integer NOT NULL DEFAULT 0,
  "completed" integer NOT NULL DEFAULT 0,
  "failed" integer NOT NULL DEFAULT 0,
  "input_tokens" bigint NOT NULL DEFAULT 0,
  "cached_tokens" bigint NOT NULL DEFAULT 0,
  "output_tokens" bigint NOT NULL DEFAULT 0,
  "output_file_id" text,
  "error_file_id" text,
  "created_at" timestamptz NOT NULL DEFAULT clock_timestamp(),
  "expires_at" timestamptz NOT NULL,
  "in_progress_at" timestamptz,
  "finalizing_at" timestamptz,
  "completed_at" timestamptz,
  "failed_at" timestamptz,
  "expired_at" timestamptz,
  "cancelling_at" timestamptz,
  "cancelled_at" timestamptz,
  "epoch" integer NOT NULL DEFAULT 0,
  "runner_id" text,
  "lease_until" timestamptz,
  "crashes" integer NOT NULL DEFAULT 0,
  "run_after" timestamptz NOT NULL DEFAULT clock_timestamp(),
  FOREIGN KEY ("project_id", "input_file_id") REFERENCES "files"("project_id", "id")
);
--> statement-breakpoint
CREATE INDEX "batches_list" ON "batches" ("project_id", "created_at", "id");
--> statement-breakpoint
CREATE INDEX "batches_open" ON "batches" ("created_at", "id")
  WHERE "status" IN ('validating', 'in_progress', 'finalizing', 'cancelling');
--> statement-breakpoint
CREATE TABLE "batch_results" (
  "project_id" text NOT NULL,
  "batch_id" text NOT NULL REFERENCES "batches"("id"),
  "line" integer NOT NULL,
  "failed" boolean NOT NULL,
  "record" text NOT NULL,
  PRIMARY KEY ("batch_id", "line")
);
