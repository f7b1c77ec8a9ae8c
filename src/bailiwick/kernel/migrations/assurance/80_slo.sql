-- What was counted of a service level in one minute. A later count that differs adds an entry with the difference, so
-- the sum of a minute's entries is what is known, and the sum of the first n entries is what was known then. An entry of
-- zeros says that the minute was counted and nothing happened in it. "definition" is the digest of what was counted.
CREATE TABLE sli_buckets (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  slo text NOT NULL,
  definition text NOT NULL,
  minute timestamptz NOT NULL CHECK (date_trunc('minute', minute, 'UTC') = minute),
  good bigint NOT NULL,
  total bigint NOT NULL,
  counted_at timestamptz NOT NULL
);
CREATE INDEX sli_buckets_minute ON sli_buckets (zone, slo, definition, minute) INCLUDE (good, total, number);
-- Values of our own metrics at a minute, from which differences are made. "part" is "good" or "total".
CREATE TABLE sli_snapshots (
  zone text NOT NULL REFERENCES zones,
  slo text NOT NULL,
  definition text NOT NULL,
  minute timestamptz NOT NULL,
  good double precision,
  total double precision,
  PRIMARY KEY (zone, slo, definition, minute)
);
-- Where counting stands, and why it does not go on.
CREATE TABLE slo_states (
  zone text NOT NULL REFERENCES zones,
  slo text NOT NULL,
  definition text NOT NULL,
  counted_until timestamptz NOT NULL,
  error text NOT NULL DEFAULT '',
  failing_since timestamptz,
  PRIMARY KEY (zone, slo)
);
-- Reports as they were made. Nothing of them ever changes; a signature is a row of its own.
CREATE TABLE assurance_reports (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  kind text NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL CHECK (until > since),
  cutoff bigint NOT NULL,      -- the last entry it knows of
  verdict text NOT NULL,
  coverage double precision,   -- share of the window that was measured; null where that has no meaning
  sha256 text NOT NULL,        -- of the document's canonical JSON
  document text NOT NULL,      -- the canonical JSON itself
  produced_by text NOT NULL,
  produced_at timestamptz NOT NULL,
  UNIQUE (zone, kind, since, until, sha256)
);
CREATE TABLE assurance_report_signatures (
  report text NOT NULL REFERENCES assurance_reports,
  signed_by text NOT NULL,
  signed_at timestamptz NOT NULL,
  sha256 text NOT NULL,
  event text NOT NULL, -- the event in the ledger that says so
  PRIMARY KEY (report, signed_by)
);
-- What a resource used, and its limit, by the clock.
CREATE TABLE capacity_points (
  zone text NOT NULL REFERENCES zones,
  resource text NOT NULL,
  definition text NOT NULL,
  at timestamptz NOT NULL,
  value double precision, -- null where it could not be read
  capacity double precision, -- null where it has no limit
  error text NOT NULL DEFAULT '', -- why it could not
  PRIMARY KEY (zone, resource, definition, at),
  CHECK ((value IS NULL) = (error <> ''))
);
-- What a key figure was over a period, with the inputs it was made of. A rebuilt one that differs is a new version.
CREATE TABLE kpi_values (
  zone text NOT NULL REFERENCES zones,
  kpi text NOT NULL,
  definition text NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  version integer NOT NULL,
  value double precision,
  verdict text NOT NULL,
  inputs jsonb NOT NULL,
  note text NOT NULL DEFAULT '',
  built_at timestamptz NOT NULL,
  PRIMARY KEY (zone, kpi, definition, since, until, version)
);
-- Calls upon those who support the platform, whose times are measured as service levels are.
CREATE TABLE support_cases (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  class text NOT NULL CHECK (class IN ('critical-fix', 'l3')),
  title text NOT NULL,
  opened_by text NOT NULL,
  opened_at timestamptz NOT NULL,
  due_at timestamptz NOT NULL,
  done_at timestamptz,
  done_by text NOT NULL DEFAULT ''
);
CREATE INDEX support_cases_due ON support_cases (zone, class, due_at);
