ALTER TABLE "projects" ADD COLUMN "archived_at" timestamp with time zone;
--> statement-breakpoint
ALTER TABLE "projects" ADD COLUMN "max_active_jobs" integer;
--> statement-breakpoint
ALTER TABLE "projects" ADD COLUMN "max_files" integer;
--> statement-breakpoint
ALTER TABLE "projects" ADD COLUMN "max_storage_bytes" bigint;
--> statement-breakpoint
CREATE TABLE "service_accounts" (
	"id" text NOT NULL,
	"project_id" text NOT NULL REFERENCES "projects"("id"),
	"name" text NOT NULL,
	"role" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"deleted_at" timestamp with time zone,
	CONSTRAINT "service_accounts_project_id_id_pk" PRIMARY KEY("project_id","id"),
	CONSTRAINT "service_accounts_role" CHECK ("role" IN ('owner', 'member'))
);
--> statement-breakpoint
CREATE UNIQUE INDEX "service_accounts_id" ON "service_accounts" ("id");
--> statement-breakpoint
CREATE INDEX "service_accounts_list" ON "service_accounts" ("project_id","created_at","id");
--> statement-breakpoint
ALTER TABLE "api_keys" ADD COLUMN "scopes" text[] DEFAULT '{}' NOT NULL;
--> statement-breakpoint
ALTER TABLE "api_keys" ADD COLUMN "service_account_id" text;
--> statement-breakpoint
ALTER TABLE "api_keys" ADD CONSTRAINT "api_keys_service_account_fk"
	FOREIGN KEY ("project_id","service_account_id") REFERENCES "service_accounts"("project_id","id");
--> statement-breakpoint
CREATE INDEX "api_keys_list" ON "api_keys" ("project_id","created_at","id");
--> statement-breakpoint
CREATE TABLE "admin_api_keys" (
	"id" text PRIMARY KEY NOT NULL,
	"organization_id" text NOT NULL REFERENCES "organizations"("id"),
	"name" text NOT NULL,
	"secret_sha256" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"expires_at" timestamp with time zone,
	"revoked_at" timestamp with time zone,
	"last_used_at" timestamp with time zone
);
--> statement-breakpoint
CREATE INDEX "admin_api_keys_list" ON "admin_api_keys" ("organization_id","created_at","id");
--> statement-breakpoint
CREATE TABLE "project_rate_limits" (
	"project_id" text NOT NULL REFERENCES "projects"("id"),
	"model" text NOT NULL,
	"max_requests" integer,
	"max_tokens" integer,
	CONSTRAINT "project_rate_limits_project_id_model_pk" PRIMARY KEY("project_id","model")
);
--> statement-breakpoint
-- Unlogged: a write waits for no disk, and buckets that a crash of the server empties are full again.
CREATE UNLOGGED TABLE "rate_limit_buckets" (
	"project_id" text NOT NULL REFERENCES "projects"("id"),
	"model" text NOT NULL,
	"requests" double precision NOT NULL,
	"tokens" double precision NOT NULL,
	"allowed" boolean NOT NULL,
	"updated_at" timestamp with time zone NOT NULL,
	CONSTRAINT "rate_limit_buckets_project_id_model_pk" PRIMARY KEY("project_id","model")
) WITH (fillfactor = 50);
--> statement-breakpoint
CREATE TABLE "idempotency_keys" (
	"project_id" text NOT NULL,
	"key" text NOT NULL,
	"fingerprint" text NOT NULL,
	"seed" text NOT NULL,
	"holder" text NOT NULL,
	"held_until" timestamp with time zone,
	"status" integer,
	"body" text,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	CONSTRAINT "idempotency_keys_project_id_key_pk" PRIMARY KEY("project_id","key")
);
--> statement-breakpoint
CREATE INDEX "idempotency_keys_expiry" ON "idempotency_keys" ("expires_at");
