CREATE TABLE "api_keys" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text NOT NULL,
	"name" text NOT NULL,
	"secret_sha256" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"expires_at" timestamp with time zone,
	"revoked_at" timestamp with time zone,
	"last_used_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "base_models" (
	"id" text PRIMARY KEY NOT NULL,
	"location" text NOT NULL,
	"family" text NOT NULL,
	"parameter_count" bigint NOT NULL,
	"context_length" integer NOT NULL,
	"config" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "files" (
	"id" text NOT NULL,
	"project_id" text NOT NULL,
	"bytes" bigint NOT NULL,
	"filename" text NOT NULL,
	"purpose" text NOT NULL,
	"status" text DEFAULT 'processed' NOT NULL,
	"storage_key" text NOT NULL,
	"sha256" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"expires_at" timestamp with time zone,
	"deleted_at" timestamp with time zone,
	CONSTRAINT "files_project_id_id_pk" PRIMARY KEY("project_id","id")
);
--> statement-breakpoint
CREATE TABLE "fine_tuning_job_checkpoints" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text NOT NULL,
	"job_id" text NOT NULL,
	"epoch" integer NOT NULL,
	"step" integer NOT NULL,
	"kind" text NOT NULL,
	"model_name" text,
	"storage_prefix" text NOT NULL,
	"files" jsonb NOT NULL,
	"digest" text NOT NULL,
	"metrics" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"deleted_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "fine_tuning_job_events" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text NOT NULL,
	"job_id" text NOT NULL,
	"seq" bigint NOT NULL,
	"level" text NOT NULL,
	"type" text NOT NULL,
	"message" text NOT NULL,
	"data" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "fine_tuning_jobs" (
	"id" text NOT NULL,
	"project_id" text NOT NULL,
	"model" text NOT NULL,
	"start_model" text,
	"training_file" text NOT NULL,
	"validation_file" text,
	"suffix" text,
	"seed" integer NOT NULL,
	"metadata" jsonb,
	"method" jsonb NOT NULL,
	"adapter" jsonb NOT NULL,
	"trainer" jsonb NOT NULL,
	"status" text NOT NULL,
	"error" jsonb,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"started_at" timestamp with time zone,
	"finished_at" timestamp with time zone,
	"estimated_finish" timestamp with time zone,
	"trained_tokens" bigint,
	"fine_tuned_model" text,
	"result_files" jsonb DEFAULT '[]'::jsonb NOT NULL,
	"progress" jsonb,
	"cancel_requested_at" timestamp with time zone,
	"priority" integer DEFAULT 0 NOT NULL,
	"run_after" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"epoch" integer DEFAULT 0 NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"crashes" integer DEFAULT 0 NOT NULL,
	"worker_id" text,
	"lease_until" timestamp with time zone,
	"event_seq" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "fine_tuning_jobs_project_id_id_pk" PRIMARY KEY("project_id","id")
);
--> statement-breakpoint
CREATE TABLE "organizations" (
	"id" text PRIMARY KEY NOT NULL,
	"slug" text NOT NULL,
	"name" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "projects" (
	"id" text PRIMARY KEY NOT NULL,
	"organization_id" text NOT NULL,
	"name" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "tuned_models" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text NOT NULL,
	"job_id" text NOT NULL,
	"base_model" text NOT NULL,
	"kind" text NOT NULL,
	"owned_by" text NOT NULL,
	"step" integer NOT NULL,
	"is_checkpoint" boolean NOT NULL,
	"storage_prefix" text NOT NULL,
	"files" jsonb NOT NULL,
	"digest" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"deleted_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "workers" (
	"id" text PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"url" text,
	"base_model" text,
	"device" text NOT NULL,
	"host" text NOT NULL,
	"pid" integer NOT NULL,
	"state" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"heartbeat_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "api_keys" ADD CONSTRAINT "api_keys_project_id_projects_id_fk" FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "files" ADD CONSTRAINT "files_project_id_projects_id_fk" FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "fine_tuning_job_checkpoints" ADD CONSTRAINT "fine_tuning_job_checkpoints_project_id_job_id_fine_tuning_jobs_project_id_id_fk" FOREIGN KEY ("project_id","job_id") REFERENCES "fine_tuning_jobs"("project_id","id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "fine_tuning_job_events" ADD CONSTRAINT "fine_tuning_job_events_project_id_job_id_fine_tuning_jobs_project_id_id_fk" FOREIGN KEY ("project_id","job_id") REFERENCES "fine_tuning_jobs"("project_id","id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "fine_tuning_jobs" ADD CONSTRAINT "fine_tuning_jobs_project_id_projects_id_fk" FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "fine_tuning_jobs" ADD CONSTRAINT "fine_tuning_jobs_project_id_training_file_files_project_id_id_fk" FOREIGN KEY ("project_id","training_file") REFERENCES "files"("project_id","id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "fine_tuning_jobs" ADD CONSTRAINT "fine_tuning_jobs_project_id_validation_file_files_project_id_id_fk" FOREIGN KEY ("project_id","validation_file") REFERENCES "files"("project_id","id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "projects" ADD CONSTRAINT "projects_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "organizations"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "tuned_models" ADD CONSTRAINT "tuned_models_project_id_projects_id_fk" FOREIGN KEY ("project_id") REFERENCES "projects"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "tuned_models" ADD CONSTRAINT "tuned_models_base_model_base_models_id_fk" FOREIGN KEY ("base_model") REFERENCES "base_models"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "tuned_models" ADD CONSTRAINT "tuned_models_project_id_job_id_fine_tuning_jobs_project_id_id_fk" FOREIGN KEY ("project_id","job_id") REFERENCES "fine_tuning_jobs"("project_id","id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "files_id" ON "files" USING btree ("id");--> statement-breakpoint
CREATE INDEX "files_list" ON "files" USING btree ("project_id","created_at","id");--> statement-breakpoint
CREATE INDEX "fine_tuning_job_checkpoints_list" ON "fine_tuning_job_checkpoints" USING btree ("job_id","step");--> statement-breakpoint
CREATE UNIQUE INDEX "fine_tuning_job_events_seq" ON "fine_tuning_job_events" USING btree ("job_id","seq");--> statement-breakpoint
CREATE UNIQUE INDEX "fine_tuning_jobs_id" ON "fine_tuning_jobs" USING btree ("id");--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_list" ON "fine_tuning_jobs" USING btree ("project_id","created_at","id");--> statement-breakpoint
CREATE INDEX "fine_tuning_jobs_claim" ON "fine_tuning_jobs" USING btree ("priority","created_at","id") WHERE status in ('validating_files', 'queued', 'running');--> statement-breakpoint
CREATE INDEX "tuned_models_project" ON "tuned_models" USING btree ("project_id","created_at");