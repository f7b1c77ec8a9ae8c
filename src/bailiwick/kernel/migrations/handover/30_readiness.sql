-- Every run of an environment's checklists, and what it found of each item. What counts now is computed from these and
-- from the moment of asking; nothing here is a status.
CREATE TABLE readiness_runs (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  environment text NOT NULL,
  profile text NOT NULL,
  revision bigint NOT NULL,       -- of the book
  asked_by text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  verdict text NOT NULL,
  score jsonb NOT NULL,
  record text NOT NULL
);
CREATE INDEX ON readiness_runs (zone, environment, finished_at DESC);
CREATE TABLE readiness_results (
  run text NOT NULL REFERENCES readiness_runs,
  zone text NOT NULL,
  environment text NOT NULL,
  item text NOT NULL,             -- checklist/item
  sha256 text NOT NULL,           -- of what was asked
  looked boolean NOT NULL,        -- whether a probe looked; else how the item stood by what was stated before
  verdict text NOT NULL,
  value double precision,
  unit text NOT NULL DEFAULT '',
  detail text NOT NULL,
  waiver text NOT NULL DEFAULT '',
  took_ms int NOT NULL,
  at timestamptz NOT NULL,
  expires_at timestamptz,
  record text NOT NULL DEFAULT '',
  PRIMARY KEY (run, item),
  CHECK (NOT looked OR (expires_at IS NOT NULL AND record <> ''))
);
CREATE INDEX ON readiness_results (zone, environment, item, at DESC) WHERE looked;
-- What people state where no probe can look, and what another person said to it, once.
CREATE TABLE readiness_attestations (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  environment text NOT NULL,
  item text NOT NULL,
  sha256 text NOT NULL,
  statement text NOT NULL,
  attachment text NOT NULL DEFAULT '',
  attachment_sha256 text NOT NULL DEFAULT '',
  author text NOT NULL,
  made_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  record text NOT NULL
);
CREATE INDEX ON readiness_attestations (zone, environment, item, made_at DESC);
-- The documents that statements rest on, by their content: hash and bytes are held together.
CREATE TABLE readiness_attachments (
  zone text NOT NULL REFERENCES zones,
  sha256 text NOT NULL,
  media_type text NOT NULL,
  bytes int NOT NULL,
  kept_at timestamptz NOT NULL,
  kept_by text NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (zone, sha256),
  CONSTRAINT readiness_attachments_data
    CHECK (sha256 = encode(sha256(data), 'hex') AND bytes = octet_length(data) AND bytes BETWEEN 1 AND 10485760)
);
CREATE INDEX ON readiness_attachments (zone, kept_by);
CREATE INDEX ON readiness_attestations (zone, attachment_sha256) WHERE attachment_sha256 <> '';
CREATE TABLE readiness_reviews (
  attestation text PRIMARY KEY REFERENCES readiness_attestations,
  outcome text NOT NULL CHECK (outcome IN ('accepted', 'refused')),
  reviewer text NOT NULL,
  note text NOT NULL,
  reviewed_at timestamptz NOT NULL,
  record text NOT NULL
);
