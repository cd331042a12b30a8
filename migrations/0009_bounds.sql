-- What waits to be told to a project's webhooks, and what has been, newest first: both are bounded by number.
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (project_id, created_at, id)
  WHERE delivered_at IS NULL AND abandoned_at IS NULL;
--> statement-breakpoint
CREATE INDEX webhook_deliveries_finished ON webhook_deliveries (project_id, created_at, id)
  WHERE delivered_at IS NOT NULL OR abandoned_at IS NOT NULL;
--> statement-breakpoint
-- What a stored completion takes: it counts with the bytes of its project.
ALTER TABLE chat_completions ADD COLUMN bytes bigint NOT NULL GENERATED ALWAYS AS
  (octet_length(request::text) + octet_length(completion::text) + coalesce(octet_length(metadata::text), 0)) STORED;
