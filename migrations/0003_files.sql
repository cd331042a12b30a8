-- Uploads, work on models beside jobs (imports, exports), and what the sweep writes down.

ALTER TABLE files ADD COLUMN swept_at timestamptz;
--> statement-breakpoint
ALTER TABLE tuned_models ALTER COLUMN job_id DROP NOT NULL;
--> statement-breakpoint
-- What a sweep looks for: files that are over but whose bytes are still there, and who refers to a stored object.
CREATE INDEX files_over ON files (expires_at, deleted_at) WHERE swept_at IS NULL AND (deleted_at IS NOT NULL OR expires_at IS NOT NULL);
--> statement-breakpoint
CREATE INDEX files_storage_key ON files (storage_key);
--> statement-breakpoint
CREATE INDEX fine_tuning_job_checkpoints_prefix ON fine_tuning_job_checkpoints (storage_prefix);
--> statement-breakpoint
CREATE INDEX tuned_models_prefix ON tuned_models (storage_prefix);
--> statement-breakpoint
-- Whether a job that has not ended needs a file.
CREATE INDEX fine_tuning_jobs_training_file ON fine_tuning_jobs (project_id, training_file);
--> statement-breakpoint
CREATE INDEX fine_tuning_jobs_validation_file ON fine_tuning_jobs (project_id, validation_file);
--> statement-breakpoint
CREATE TABLE uploads (
  id text PRIMARY KEY,
  project_id text NOT NULL REFERENCES projects (id),
  filename text NOT NULL,
  purpose text NOT NULL,
  mime_type text NOT NULL,
  bytes bigint NOT NULL,
  file_expires_after_seconds integer,
  status text NOT NULL DEFAULT 'pending',
  file_id text,
  part_ids jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  ended_at timestamptz
);
--> statement-breakpoint
CREATE INDEX uploads_project ON uploads (project_id, created_at);
--> statement-breakpoint
CREATE INDEX uploads_pending ON uploads (expires_at) WHERE status = 'pending';
--> statement-breakpoint
CREATE TABLE upload_parts (
  id text PRIMARY KEY,
  project_id text NOT NULL,
  upload_id text NOT NULL REFERENCES uploads (id),
  bytes bigint NOT NULL,
  sha256 text NOT NULL,
  storage_key text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
--> statement-breakpoint
CREATE INDEX upload_parts_upload ON upload_parts (upload_id);
--> statement-breakpoint
CREATE TABLE model_operations (
  id text PRIMARY KEY,
  project_id text NOT NULL REFERENCES projects (id),
  kind text NOT NULL,
  base_model text NOT NULL,
  model_id text NOT NULL,
  input_prefix text NOT NULL,
  input_files jsonb NOT NULL,
  status text NOT NULL DEFAULT 'queued',
  error jsonb,
  storage_prefix text,
  files jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  expires_at timestamptz,
  epoch integer NOT NULL DEFAULT 0,
  worker_id text,
  lease_until timestamptz
);
--> statement-breakpoint
CREATE INDEX model_operations_project ON model_operations (project_id, created_at);
--> statement-breakpoint
CREATE INDEX model_operations_claim ON model_operations (created_at) WHERE status IN ('queued', 'running');
--> statement-breakpoint
CREATE INDEX model_operations_input ON model_operations (input_prefix) WHERE status IN ('queued', 'running');
