-- Every attempt at a backup. What lies in the store is told by its manifests; this is the history of it.
CREATE TABLE backups (
  id text PRIMARY KEY,
  state text NOT NULL CHECK (state IN ('running', 'complete', 'failed', 'expired')),
  place text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  asked_by text NOT NULL,
  bytes bigint,
  start_lsn text,
  stop_lsn text,
  timeline int,
  manifest_sha256 text,
  heads jsonb NOT NULL DEFAULT '{}',
  error text,
  expired_at timestamptz,
  CHECK (state = 'running' OR finished_at IS NOT NULL)
);
CREATE UNIQUE INDEX backups_one_at_a_time ON backups ((true)) WHERE state = 'running';
CREATE INDEX ON backups (state, finished_at);
-- How far the write-ahead log is safe: everything committed by "covered_until" is in the store.
CREATE TABLE backup_log (
  place text PRIMARY KEY,
  covered_until timestamptz,
  segment text NOT NULL DEFAULT '',
  stored_at timestamptz,
  trouble text NOT NULL DEFAULT ''
);
-- What was restored into this installation, and what that cost.
CREATE TABLE backup_restores (
  id text PRIMARY KEY,
  backup text NOT NULL,
  place text NOT NULL,
  to_moment text NOT NULL,
  ended_lsn text NOT NULL,
  restored_at timestamptz NOT NULL,
  restored_by text NOT NULL,
  heads jsonb NOT NULL
);
-- Every drill, with what was measured.
CREATE TABLE backup_drills (
  id text PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('restore', 'failover')),
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'ERROR')),
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  held_by text NOT NULL,
  backup text,
  rto_s double precision,
  rpo_s double precision,
  checks jsonb NOT NULL,
  record text NOT NULL DEFAULT ''
);
CREATE INDEX ON backup_drills (kind, finished_at);
