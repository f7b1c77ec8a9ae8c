-- Rhythm: one row for every dated occurrence of a ceremony. Its state moves, and what that brings with it.
CREATE TABLE rhythm_occurrences (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  ceremony text NOT NULL,
  starts_at timestamptz NOT NULL,
  ends_at timestamptz NOT NULL,
  made_by text NOT NULL, -- version of the document, and of the go-live instant that it counts from
  state text NOT NULL CHECK (state IN
    ('scheduled', 'pack_built', 'held', 'done', 'signed', 'overdue', 'missed', 'cancelled')),
  noticed timestamptz,   -- newest notice that was left
  cut_off timestamptz,   -- when its pack was begun
  held_at timestamptz,
  created_at timestamptz NOT NULL,
  moved_at timestamptz NOT NULL,
  UNIQUE (zone, ceremony, starts_at)
);
CREATE INDEX rhythm_occurrences_waiting ON rhythm_occurrences (zone, starts_at)
  WHERE state IN ('scheduled', 'pack_built', 'held', 'overdue');
-- What its automatic parts found, each once.
CREATE TABLE rhythm_runs (
  occurrence text NOT NULL REFERENCES rhythm_occurrences,
  name text NOT NULL,
  query text NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  verdict text NOT NULL,
  told text NOT NULL,
  figures jsonb NOT NULL,
  record text NOT NULL, -- id of the evidence record
  ran_at timestamptz NOT NULL,
  PRIMARY KEY (occurrence, name)
);
CREATE TABLE rhythm_packs (
  occurrence text PRIMARY KEY REFERENCES rhythm_occurrences,
  body bytea NOT NULL, -- canonical JSON
  sha256 text NOT NULL,
  verdict text NOT NULL,
  built_at timestamptz NOT NULL,
  built_by text NOT NULL
);
CREATE TABLE rhythm_minutes (
  occurrence text NOT NULL REFERENCES rhythm_occurrences,
  version int NOT NULL,
  body bytea NOT NULL, -- canonical JSON: attendees, decisions, action items
  sha256 text NOT NULL,
  written_by text NOT NULL,
  written_at timestamptz NOT NULL,
  PRIMARY KEY (occurrence, version)
);
CREATE TABLE rhythm_signatures (
  occurrence text PRIMARY KEY REFERENCES rhythm_occurrences,
  minutes int NOT NULL,
  minutes_sha256 text NOT NULL,
  pack_sha256 text NOT NULL,
  signed_by text NOT NULL,
  signed_at timestamptz NOT NULL
);
CREATE TABLE rhythm_actions (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  occurrence text NOT NULL REFERENCES rhythm_occurrences,
  ceremony text NOT NULL,
  title text NOT NULL,
  created_at timestamptz NOT NULL,
  created_by text NOT NULL
);
CREATE INDEX ON rhythm_actions (zone, ceremony);
-- How an action item stands: its newest version does, or the newest of the moment that is asked about.
CREATE TABLE rhythm_action_versions (
  action text NOT NULL REFERENCES rhythm_actions,
  version int NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'done')),
  owner text NOT NULL,
  due date NOT NULL,
  severity text NOT NULL,
  misses int NOT NULL,
  record text NOT NULL,
  changed_by text NOT NULL,
  changed_at timestamptz NOT NULL,
  PRIMARY KEY (action, version)
);

-- When a platform went live, or will. The newest version holds.
CREATE TABLE go_lives (
  zone text NOT NULL REFERENCES zones,
  platform text NOT NULL,
  version int NOT NULL,
  at timestamptz NOT NULL,
  reason text NOT NULL,
  approval text NOT NULL, -- empty for the first
  recorded_by text NOT NULL,
  recorded_at timestamptz NOT NULL,
  PRIMARY KEY (zone, platform, version)
);
-- How a waiver that is open at a checkpoint is to be closed; counts once somebody else approved it.
CREATE TABLE checkpoint_plans (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  checkpoint text NOT NULL,
  waiver text NOT NULL,
  plan text NOT NULL,
  owner text NOT NULL,
  due date NOT NULL,
  approval text NOT NULL,
  made_by text NOT NULL,
  made_at timestamptz NOT NULL,
  approved_at timestamptz,
  revoked_at timestamptz,
  revoked_by text
);
CREATE INDEX ON checkpoint_plans (zone, checkpoint);
CREATE TABLE checkpoint_results (
  zone text NOT NULL REFERENCES zones,
  checkpoint text NOT NULL,
  version int NOT NULL,
  platform text NOT NULL,
  at timestamptz NOT NULL, -- the instant it judges
  due_at timestamptz NOT NULL,
  verdict text NOT NULL,
  findings jsonb NOT NULL,
  definition text NOT NULL, -- version and digest of the document
  record text NOT NULL,     -- id of the evidence record
  evaluated_by text NOT NULL,
  evaluated_at timestamptz NOT NULL,
  PRIMARY KEY (zone, checkpoint, version)
);

-- How the items of the registers stand: risks, the roadmap, documents under review.
CREATE TABLE register_versions (
  zone text NOT NULL REFERENCES zones,
  register text NOT NULL,
  item text NOT NULL,
  version int NOT NULL,
  state text NOT NULL,
  record text NOT NULL,
  note text NOT NULL,
  changed_by text NOT NULL,
  changed_at timestamptz NOT NULL,
  PRIMARY KEY (zone, register, item, version)
);
