-- Exports of fully tuned models refer to the model's own files.
CREATE INDEX model_operations_result ON model_operations (storage_prefix) WHERE status = 'succeeded';
--> statement-breakpoint
-- Until when a delivery is under way: what a project has under way decides who is next.
ALTER TABLE webhook_deliveries ADD COLUMN taken_until timestamptz;
--> statement-breakpoint
CREATE INDEX webhook_deliveries_taken ON webhook_deliveries (taken_until) WHERE taken_until IS NOT NULL;
--> statement-breakpoint
-- Of a completed Upload, so that a repeated completion is held to it.
ALTER TABLE uploads ADD COLUMN md5 text;
--> statement-breakpoint
-- The models that are shared with a project stand in its list.
CREATE INDEX checkpoint_permissions_project ON checkpoint_permissions (project_id);
