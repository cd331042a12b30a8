-- The job state machine. `fine_tuning_jobs.status` is written by lathe_transition() only; the trigger refuses every
-- change that is not in the table, whoever makes it, so a job that has ended can never come back.

CREATE FUNCTION lathe_transition_allowed(from_status text, to_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE from_status
    WHEN 'validating_files' THEN to_status IN ('queued', 'failed', 'cancelled')
    WHEN 'queued' THEN to_status IN ('running', 'paused', 'failed', 'cancelled')
    WHEN 'running' THEN to_status IN ('succeeded', 'paused', 'failed', 'cancelled')
    WHEN 'paused' THEN to_status IN ('queued', 'cancelled')
    ELSE false
  END
$$;
--> statement-breakpoint
CREATE FUNCTION lathe_refuse_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  IF NOT lathe_transition_allowed(OLD.status, NEW.status) THEN
    RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$;
--> statement-breakpoint
CREATE TRIGGER fine_tuning_jobs_status BEFORE UPDATE OF status ON fine_tuning_jobs
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION lathe_refuse_transition();
--> statement-breakpoint
-- Offers the announced checkpoints of a job as models, and takes back those that were retired. A checkpoint that was
-- written again keeps its name and gets the new files; one that the user deleted stays deleted.
CREATE FUNCTION lathe_offer_checkpoints(target_job text) RETURNS void
LANGUAGE sql AS $$
  UPDATE tuned_models m SET deleted_at = clock_timestamp()
  FROM fine_tuning_job_checkpoints c
  WHERE c.job_id = target_job AND c.deleted_at IS NOT NULL
    AND m.id = c.model_name AND m.is_checkpoint AND m.deleted_at IS NULL;

  INSERT INTO tuned_models
    (id, project_id, job_id, base_model, kind, owned_by, step, is_checkpoint, storage_prefix, files, digest)
  SELECT c.model_name, c.project_id, c.job_id, j.model,
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
--> statement-breakpoint
-- Moves a job to `to_status`; true when it moved, false when the table forbids it or the caller does not hold the job.
-- `holder_epoch` and `holder_worker` are the fence of a trainer; both NULL for a caller that is none (a cancel without
-- a live lease). A job that ends, however it ends, gives up its lease; the checkpoints it announced stay on offer.
CREATE FUNCTION lathe_transition(target_job text, to_status text, holder_epoch integer, holder_worker text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  is_end boolean := to_status IN ('succeeded', 'failed', 'cancelled');
BEGIN
  UPDATE fine_tuning_jobs j SET
    status = to_status,
    started_at = CASE WHEN to_status = 'running' THEN coalesce(j.started_at, clock_timestamp()) ELSE j.started_at END,
    finished_at = CASE WHEN is_end THEN clock_timestamp() END,
    estimated_finish = CASE WHEN is_end THEN NULL ELSE j.estimated_finish END,
    worker_id = CASE WHEN is_end OR to_status = 'paused' THEN NULL ELSE j.worker_id END,
    lease_until = CASE WHEN is_end OR to_status = 'paused' THEN NULL ELSE j.lease_until END
  WHERE j.id = target_job
    AND (holder_epoch IS NULL OR (j.epoch = holder_epoch AND j.worker_id = holder_worker))
    AND lathe_transition_allowed(j.status, to_status);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF is_end THEN
    PERFORM lathe_offer_checkpoints(target_job);
  END IF;
  RETURN true;
END
$$;
