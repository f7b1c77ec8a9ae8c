-- Every run of a probe. Rows are only ever added; one occurrence of a probe leaves one row, whoever ran it how often.
CREATE TABLE probe_runs (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  probe text NOT NULL,
  due_at timestamptz NOT NULL,  -- the instant of the schedule, or the one at which somebody asked
  asked_by text NOT NULL,       -- empty for the schedule
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'STALE', 'ERROR', 'NOT_DUE')),
  value double precision,
  threshold double precision,
  comparison text NOT NULL,
  unit text NOT NULL,
  window_s double precision,
  detail text NOT NULL,
  record text NOT NULL,         -- the evidence record
  UNIQUE (zone, probe, due_at)
);
CREATE INDEX ON probe_runs (zone, probe, finished_at DESC);

-- Jobs that are overdue now, as the dead-man switch last saw it, so that it fires and clears once.
CREATE TABLE silent_jobs (
  job text PRIMARY KEY,
  since timestamptz NOT NULL,   -- the instant that was missed
  noticed_at timestamptz NOT NULL,
  why text NOT NULL
);
