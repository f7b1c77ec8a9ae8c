-- Dated exceptions to controls. What is active or expired follows from the dates; "state" keeps what people decided.
CREATE TABLE waivers (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  control text NOT NULL,
  scope text NOT NULL,
  reason text NOT NULL,
  risk text NOT NULL CHECK (risk IN ('LOW', 'MEDIUM', 'HIGH', 'CRITICAL')),
  compensating text NOT NULL,
  owner text NOT NULL,
  plan text NOT NULL,
  requested_by text NOT NULL,
  signed_in boolean NOT NULL,
  tier int NOT NULL CHECK (tier BETWEEN 1 AND 3),
  valid_from timestamptz NOT NULL,
  valid_until timestamptz NOT NULL,
  renewals int NOT NULL DEFAULT 0 CHECK (renewals BETWEEN 0 AND 2),
  renews text REFERENCES waivers,
  renewed_by text REFERENCES waivers,
  approval text REFERENCES approvals,
  state text NOT NULL CHECK (state IN ('draft', 'submitted', 'approved', 'rejected', 'closed', 'revoked', 'renewed')),
  evidence text NOT NULL DEFAULT '',
  decided_by text[] NOT NULL DEFAULT '{}',
  decided_at timestamptz,
  expired_noted_at timestamptz,
  settled_at timestamptz, -- remedied after it had expired
  event text NOT NULL DEFAULT '', -- the event in the ledger by which it was approved
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  changed_at timestamptz NOT NULL,
  CHECK (valid_until > valid_from)
);
CREATE INDEX ON waivers (zone, control, scope) WHERE state = 'approved';
CREATE UNIQUE INDEX ON waivers (renews) WHERE state NOT IN ('rejected', 'revoked');
CREATE TABLE waiver_uses (
  waiver text NOT NULL REFERENCES waivers,
  gate text NOT NULL,
  at timestamptz NOT NULL
);
CREATE INDEX ON waiver_uses (waiver, at);

-- The key by which a zone's secrets are fingerprinted, sealed.
CREATE TABLE fingerprint_keys (
  zone text PRIMARY KEY REFERENCES zones,
  sealed bytea NOT NULL
);
-- Secrets as they were first seen: how old one is, where nothing else tells, and that its value is another one now.
CREATE TABLE secrets_seen (
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  fingerprint text NOT NULL,
  first_seen_at timestamptz NOT NULL,
  PRIMARY KEY (zone, name, fingerprint)
);
-- Rotations with their proof: the old one was presented and refused. Its value is kept, sealed, until then at most.
CREATE TABLE secret_rotations (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  kind text NOT NULL CHECK (kind IN ('application', 'api-key', 'signing-key', 'kek', 'setting', 'credential',
    'provider', 'sink', 'channel', 'declared')),
  name text NOT NULL,
  old text NOT NULL,
  new text NOT NULL,
  rotated_by text NOT NULL,
  rotated_at timestamptz NOT NULL,
  overlap_until timestamptz NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'NOT_DUE')),
  proved_at timestamptz,
  record text NOT NULL DEFAULT ''
);
CREATE INDEX ON secret_rotations (zone, id);
-- Accounts and keys that nobody used: listed, then kept by a person or disabled after a grace, and restored by a person.
CREATE TABLE unused_reviews (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  kind text NOT NULL CHECK (kind IN ('account', 'api-key')),
  name text NOT NULL,
  owner text NOT NULL,
  idle_days int NOT NULL,
  listed_at timestamptz NOT NULL,
  disable_at timestamptz NOT NULL,
  state text NOT NULL CHECK (state IN ('listed', 'kept', 'disabled', 'restored', 'refused')),
  decided_by text NOT NULL DEFAULT '',
  decided_at timestamptz,
  note text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX ON unused_reviews (zone, kind, name) WHERE state = 'listed';
