-- Which files a base model had: adapters and checkpoints are used with the ones they were trained on, or not at all.
-- Rows without a digest are from before, and are used as they were.
ALTER TABLE base_models ADD COLUMN digest text;
--> statement-breakpoint
ALTER TABLE workers ADD COLUMN base_digest text;
--> statement-breakpoint
-- What a trainer can train; an inference worker has its one base_model.
ALTER TABLE workers ADD COLUMN base_models text[] NOT NULL DEFAULT '{}';
--> statement-breakpoint
ALTER TABLE fine_tuning_jobs ADD COLUMN base_digest text;
--> statement-breakpoint
ALTER TABLE tuned_models ADD COLUMN base_digest text;
--> statement-breakpoint
ALTER TABLE model_operations ADD COLUMN base_digest text;
--> statement-breakpoint
-- As before, with the digest of the base model that the job trains on.
CREATE OR REPLACE FUNCTION lathe_offer_checkpoints(target_job text) RETURNS void
LANGUAGE sql AS $$
  UPDATE tuned_models m SET deleted_at = clock_timestamp()
  FROM fine_tuning_job_checkpoints c
  WHERE c.job_id = target_job AND c.deleted_at IS NOT NULL
    AND m.id = c.model_name AND m.is_checkpoint AND m.deleted_at IS NULL;

  INSERT INTO tuned_models
    (id, project_id, job_id, base_model, base_digest, kind, owned_by, step, is_checkpoint, storage_prefix, files, digest)
  SELECT c.model_name, c.project_id, c.job_id, j.model, j.base_digest,
    CASE WHEN j.adapter->>'peft_type' = 'FULL' THEN 'full' ELSE 'adapter' END,
    o.slug, c.step, true, c.storage_prefix,
    -- What a model needs; the rest of the folder is the training state.
    (SELECT jsonb_agg(f ORDER BY f->>'name') FROM jsonb_array_elements(c.files) f
      WHERE f->>'name' NOT IN ('optimizer.safetensors', 'trainer_state.json', 'step_metrics.csv', 'manifest.json')),
    c.digest
  FROM fine_tuning_job_checkpoints c
  JOIN fine_tuning_jobs j ON j.id = c.job_id
  JOIN projects p ON p.id = j.project_id
  JOIN organizations o ON o.id = p.organization_id
  WHERE c.job_id = target_job AND c.kind = 'epoch' AND c.deleted_at IS NULL AND c.model_name LIKE '%:ckpt-step-%'
  ON CONFLICT (id) DO UPDATE SET
    storage_prefix = excluded.storage_prefix, files = excluded.files, digest = excluded.digest;
$$;
