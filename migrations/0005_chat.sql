CREATE TABLE "chat_completions" (
  "id" text PRIMARY KEY,
  "project_id" text NOT NULL REFERENCES "projects"("id"),
  "model" text NOT NULL,
  "created_at" timestamptz NOT NULL DEFAULT clock_timestamp(),
  "metadata" jsonb,
  -- json, not jsonb: an answer may hold U+0000, which jsonb cannot.
  "request" json NOT NULL,
  "completion" json NOT NULL
);
--> statement-breakpoint
CREATE INDEX "chat_completions_page" ON "chat_completions" ("project_id", "created_at", "id");
--> statement-breakpoint
CREATE INDEX "chat_completions_metadata" ON "chat_completions" USING gin ("metadata" jsonb_path_ops);
