-- Environments: how far each is in changing hands, what was measured of it, and what people were told.
CREATE TABLE environments (
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  stage text NOT NULL CHECK (stage IN ('planned', 'live', 'hypercare', 'bau_active')),
  digest text NOT NULL DEFAULT '',     -- of the release that went live last
  live_at timestamptz,                 -- when it went live first
  hypercare_from timestamptz,          -- from when the slots of hypercare count
  pack text NOT NULL DEFAULT '',       -- the hash of the pack by which it was handed over
  version integer NOT NULL DEFAULT 1,
  PRIMARY KEY (zone, name),
  CHECK (stage = 'planned' OR live_at IS NOT NULL),
  CHECK ((stage = 'bau_active') = (pack <> ''))
);
-- Each release that went live there. What is validated counts from counts_from, which nobody can write later than it was.
CREATE TABLE environment_lives (
  zone text NOT NULL,
  environment text NOT NULL,
  number integer NOT NULL,
  digest text NOT NULL,
  rollout text NOT NULL,               -- empty: declared by two people
  approval text NOT NULL,
  at timestamptz NOT NULL,
  counts_from timestamptz NOT NULL,
  by text NOT NULL,
  PRIMARY KEY (zone, environment, number),
  FOREIGN KEY (zone, environment) REFERENCES environments (zone, name),
  CHECK ((rollout = '') <> (approval = ''))
);
CREATE TABLE environment_moves (
  zone text NOT NULL,
  environment text NOT NULL,
  number integer NOT NULL,
  before text NOT NULL,
  after text NOT NULL,
  at timestamptz NOT NULL,
  by text NOT NULL,
  told text NOT NULL,
  PRIMARY KEY (zone, environment, number),
  FOREIGN KEY (zone, environment) REFERENCES environments (zone, name)
);
-- Reports of validation. body is the JSON that sha256 is of; rows are only ever added.
CREATE TABLE validation_reports (
  id text PRIMARY KEY,
  zone text NOT NULL,
  environment text NOT NULL,
  life integer NOT NULL,
  suite text NOT NULL,
  attempt integer NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'STALE', 'ERROR')),
  opened_at timestamptz NOT NULL,      -- from when it may be measured
  began_at timestamptz NOT NULL,
  ended_at timestamptz NOT NULL,
  asked_by text NOT NULL,              -- empty for the schedule
  body text NOT NULL,
  sha256 text NOT NULL,
  record text NOT NULL,
  UNIQUE (zone, environment, life, suite, attempt),
  FOREIGN KEY (zone, environment, life) REFERENCES environment_lives (zone, environment, number),
  CHECK (began_at >= opened_at)
);
CREATE TABLE validation_asks (
  zone text NOT NULL,
  environment text NOT NULL,
  suite text NOT NULL,
  asked_by text NOT NULL,
  asked_at timestamptz NOT NULL,
  PRIMARY KEY (zone, environment, suite)
);
-- What filled a slot of hypercare. A slot that could not be measured may be tried again while it lasts.
CREATE TABLE hypercare_slots (
  zone text NOT NULL,
  environment text NOT NULL,
  at timestamptz NOT NULL,
  attempt integer NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'STALE', 'ERROR')),
  filled_at timestamptz NOT NULL,
  results text NOT NULL,
  record text NOT NULL,
  PRIMARY KEY (zone, environment, at, attempt),
  FOREIGN KEY (zone, environment) REFERENCES environments (zone, name),
  CHECK (filled_at >= at)
);
-- Incidents that make hypercare last longer, noted while they were open so that closing them does not undo it.
CREATE TABLE hypercare_incidents (
  zone text NOT NULL,
  environment text NOT NULL,
  incident text NOT NULL,
  severity text NOT NULL,
  opened_at timestamptz NOT NULL,
  seen_at timestamptz NOT NULL,
  PRIMARY KEY (zone, environment, incident),
  FOREIGN KEY (zone, environment) REFERENCES environments (zone, name)
);
-- Announcements as they were sent, and the notice to each recipient, by which its receipts are found.
CREATE TABLE announcements (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  template text NOT NULL,
  subject text NOT NULL,
  body text NOT NULL,
  sent_by text NOT NULL,
  sent_at timestamptz NOT NULL
);
CREATE INDEX announcements_newest ON announcements (zone, id DESC);
CREATE TABLE announcement_notices (
  announcement text NOT NULL REFERENCES announcements,
  number integer NOT NULL,
  recipient text NOT NULL,
  notice text NOT NULL,
  PRIMARY KEY (announcement, number)
);
-- What was seen of a single-source document each time somebody or the clock looked.
CREATE TABLE document_looks (
  zone text NOT NULL REFERENCES zones,
  document text NOT NULL,
  at timestamptz NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'STALE')),
  sha256 text NOT NULL,                -- empty: not seen
  told text NOT NULL,
  PRIMARY KEY (zone, document, at)
);
