-- Canaries: how a server's requests are divided while a candidate is judged. While one runs or is promoted, the gateway
-- reads its weights from here. The plan is kept as it was when the canary began: a later one changes no judgement.
CREATE TABLE canaries (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  server text NOT NULL,
  digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
  plan text NOT NULL,
  spec jsonb NOT NULL,
  stable_url text NOT NULL,      -- the server's own upstream; once that is another, this splits nothing
  baseline_url text NOT NULL,    -- a fresh instance of the same version
  candidate_url text NOT NULL,
  baseline_addresses jsonb NOT NULL,
  candidate_addresses jsonb NOT NULL,
  baseline_percent integer NOT NULL CHECK (baseline_percent BETWEEN 0 AND 100),
  candidate_percent integer NOT NULL CHECK (candidate_percent BETWEEN 0 AND 100),
  state text NOT NULL CHECK (state IN ('running', 'promoted', 'withdrawn', 'ended')),
  automatic boolean NOT NULL,
  step integer NOT NULL DEFAULT 0,   -- which of the plan's steps it is at
  passed integer NOT NULL DEFAULT 0, -- how many of them it passed
  phase integer NOT NULL DEFAULT 1,  -- grows with every change of weights; points are of one phase
  phase_at timestamptz NOT NULL,
  phased_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- the same of the database's clock
  looked integer NOT NULL DEFAULT 0, -- with how many points this phase was judged last
  watched_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- of the database's clock: it is about processes
  verdict text NOT NULL DEFAULT '',
  reason text NOT NULL DEFAULT '',
  told text NOT NULL DEFAULT '',
  started_at timestamptz NOT NULL,
  started_by text NOT NULL,
  ended_at timestamptz,
  ended_by text NOT NULL DEFAULT '',
  version integer NOT NULL DEFAULT 1,
  CHECK (baseline_percent + candidate_percent <= 100),
  CHECK (state <> 'promoted' OR verdict = 'PASS'),
  CHECK (state NOT IN ('withdrawn', 'ended') OR candidate_percent = 0 OR verdict = 'PASS')
);
CREATE UNIQUE INDEX canaries_one_open ON canaries (zone, server) WHERE state IN ('running', 'promoted');
CREATE INDEX canaries_newest ON canaries (zone, id DESC);

-- One bucket of one arm on one machine, as its Envoy counted. The first to write it is believed.
CREATE TABLE canary_points (
  canary text NOT NULL REFERENCES canaries,
  phase integer NOT NULL,
  bucket bigint NOT NULL,
  arm text NOT NULL CHECK (arm IN ('stable', 'baseline', 'candidate')),
  machine text NOT NULL,
  at timestamptz NOT NULL,
  requests bigint NOT NULL,
  errors bigint NOT NULL,
  refused bigint NOT NULL,
  histogram jsonb NOT NULL,      -- of milliseconds: [[lower bound, width, count], ...]
  PRIMARY KEY (canary, phase, bucket, arm, machine)
);

-- Every judgement, also one that says to go on.
CREATE TABLE canary_judgements (
  canary text NOT NULL REFERENCES canaries,
  number integer NOT NULL,
  at timestamptz NOT NULL,
  percent integer NOT NULL,
  points integer NOT NULL,
  verdict text NOT NULL,
  reason text NOT NULL,
  told text NOT NULL,
  metrics jsonb NOT NULL,
  PRIMARY KEY (canary, number)
);

-- What was found of a release: by a canary on traffic, or by the access loop. The newest of each kind counts.
CREATE TABLE canary_results (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
  kind text NOT NULL CHECK (kind IN ('traffic', 'loop')),
  canary text REFERENCES canaries,
  verdict text NOT NULL,
  reason text NOT NULL,
  told text NOT NULL,
  steps jsonb NOT NULL,          -- of a loop: what was expected and what came, step by step
  began_at timestamptz NOT NULL,
  at timestamptz NOT NULL,
  by text NOT NULL,
  record text NOT NULL,
  shortened boolean NOT NULL DEFAULT false, -- its buckets were shorter than ten seconds
  own boolean NOT NULL DEFAULT false,       -- of a loop: what it is about ran here while it was walked
  CHECK ((kind = 'traffic') = (canary IS NOT NULL)),
  CHECK (kind = 'loop' OR NOT own)
);
CREATE INDEX canary_results_of ON canary_results (zone, digest, kind, at DESC, id DESC);
