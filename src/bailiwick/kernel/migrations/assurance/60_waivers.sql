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
