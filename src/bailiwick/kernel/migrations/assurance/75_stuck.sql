-- One look at one machine, also one that found nothing.
CREATE TABLE stuck_runs (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  machine text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'ERROR')),
  error text,
  counts jsonb NOT NULL DEFAULT '{}',
  oldest_s bigint
);
CREATE INDEX ON stuck_runs (zone, machine, id);
CREATE INDEX ON stuck_runs (zone, id);
-- Our own log of who entered which state when, for sources that keep no history: nothing but another state moves it.
CREATE TABLE stuck_transitions (
  zone text NOT NULL REFERENCES zones,
  machine text NOT NULL,
  item text NOT NULL,
  state text NOT NULL,
  entered_at timestamptz NOT NULL,
  seen_at timestamptz NOT NULL,
  owner text NOT NULL DEFAULT '',
  band text NOT NULL DEFAULT 'fine',
  attempts int NOT NULL DEFAULT 0,
  gone_at timestamptz,
  PRIMARY KEY (zone, machine, item)
);
CREATE INDEX ON stuck_transitions (zone, machine, state) WHERE gone_at IS NULL;
-- What was done about it.
CREATE TABLE stuck_actions (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  machine text NOT NULL,
  item text NOT NULL,
  state text NOT NULL,
  action text NOT NULL CHECK (action IN ('recheck', 'requeue', 'dead-letter')),
  by text NOT NULL,
  at timestamptz NOT NULL,
  outcome text NOT NULL
);
CREATE INDEX ON stuck_actions (zone, machine, item);
CREATE TABLE stuck_heartbeats (
  zone text NOT NULL REFERENCES zones,
  machine text NOT NULL,
  worker text NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (zone, machine, worker)
);
