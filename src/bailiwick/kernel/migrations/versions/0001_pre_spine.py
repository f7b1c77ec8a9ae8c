"""The spine: zones, principals, servers, policy, revocation, the ledger and who may touch what."""

from __future__ import annotations

from alembic import op

revision = "0001_pre_spine"
down_revision = None
branch_labels = None
depends_on = None

# Roles belong to the whole server, and two of its databases may be migrated at once: whoever comes second finds them.
# Logins without a password cannot sign in by scram; `bailiwick db roles` sets them.
ROLES = """
DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['bailiwick_owner', 'bailiwick_app', 'bailiwick_readonly', 'bailiwick_audit_readonly'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
        EXECUTE format('CREATE ROLE %I LOGIN', name);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    BEGIN
      IF NOT pg_has_role(current_user, name, 'MEMBER') THEN
        EXECUTE format('GRANT %I TO %I', name, current_user);
      END IF;
    EXCEPTION WHEN unique_violation OR internal_error THEN NULL;
    END;
  END LOOP;
  BEGIN
    IF NOT EXISTS (
      SELECT FROM pg_roles WHERE rolname = 'bailiwick_app' AND 'search_path=bailiwick' = ANY(rolconfig)
    ) THEN
      ALTER ROLE bailiwick_app SET search_path = bailiwick;
    END IF;
  EXCEPTION WHEN unique_violation OR internal_error THEN NULL;
  END;
END $$;
CREATE SCHEMA bailiwick AUTHORIZATION bailiwick_owner;
CREATE SCHEMA ledger AUTHORIZATION bailiwick_owner;
"""

PRINCIPALS = """
CREATE TABLE zones (
  name text PRIMARY KEY CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  description text NOT NULL DEFAULT '',
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'archived')),
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL
);
CREATE TABLE zone_keys (
  kid text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  purpose text NOT NULL CHECK (purpose IN ('mandate', 'session', 'ledger')),
  algorithm text NOT NULL,
  public_jwk jsonb NOT NULL,
  private_sealed bytea NOT NULL,
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'retiring', 'retired', 'revoked')),
  created_at timestamptz NOT NULL,
  changed_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX ON zone_keys (zone, purpose) WHERE state = 'active';
CREATE TABLE users (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  username text NOT NULL,
  email text NOT NULL,
  full_name text NOT NULL DEFAULT '',
  -- the role that holds; own_role is the person's own where a group of his lifts it
  role text NOT NULL CHECK (role IN ('admin', 'operator', 'auditor', 'viewer', 'none')),
  own_role text CHECK (own_role IN ('admin', 'operator', 'auditor', 'viewer', 'none')),
  external_id text,
  profile jsonb NOT NULL DEFAULT '{}',
  is_active boolean NOT NULL DEFAULT true,
  mfa_enabled boolean NOT NULL DEFAULT false,
  password_hash text,
  must_change_password boolean NOT NULL DEFAULT false,
  invitation_hash bytea,
  invitation_expires_at timestamptz,
  last_login_at timestamptz,
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  UNIQUE (zone, username)
);
CREATE UNIQUE INDEX ON users (zone, lower(email)) WHERE email <> '';
CREATE INDEX ON users (zone, external_id);
CREATE UNIQUE INDEX ON users (zone, lower(username));
CREATE UNIQUE INDEX ON users (invitation_hash);
CREATE TABLE login_failures (
  zone text NOT NULL,
  username text NOT NULL,
  failures int NOT NULL,
  last_at timestamptz NOT NULL,
  locked_until timestamptz,
  PRIMARY KEY (zone, username)
);
CREATE INDEX ON login_failures (last_at);
CREATE TABLE sessions (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  username text NOT NULL,
  method text NOT NULL,
  ip text NOT NULL DEFAULT '',
  user_agent text NOT NULL DEFAULT '',
  amr text[] NOT NULL DEFAULT '{pwd}',
  auth_time timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL,
  idle_until timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  ended_at timestamptz,
  end_reason text,
  FOREIGN KEY (zone, username) REFERENCES users (zone, username)
);
CREATE INDEX ON sessions (zone, username) WHERE ended_at IS NULL;
CREATE INDEX ON sessions (expires_at);
-- A token once used stays, so that using it again is recognised: somebody has a copy.
CREATE TABLE refresh_tokens (
  hash bytea PRIMARY KEY,
  session_id text NOT NULL REFERENCES sessions ON DELETE CASCADE,
  created_at timestamptz NOT NULL,
  used_at timestamptz
);
CREATE INDEX ON refresh_tokens (session_id);
-- Somebody proved the first factor and owes the second.
CREATE TABLE pending_sign_ins (
  token_hash bytea PRIMARY KEY,
  zone text NOT NULL,
  username text NOT NULL,
  method text NOT NULL,
  amr text[] NOT NULL,
  enrolling boolean NOT NULL,
  attempts int NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE INDEX ON pending_sign_ins (expires_at);
CREATE TABLE factors (
  id text PRIMARY KEY,
  zone text NOT NULL,
  username text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('totp')),
  name text NOT NULL,
  secret_sealed bytea,
  last_step bigint NOT NULL DEFAULT -1,
  created_at timestamptz NOT NULL,
  confirmed_at timestamptz,
  last_used_at timestamptz,
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE INDEX ON factors (zone, username);
CREATE TABLE api_keys (
  id text PRIMARY KEY,
  zone text NOT NULL,
  username text NOT NULL,
  name text NOT NULL,
  permissions text[] NOT NULL,
  rate_limit int CHECK (rate_limit > 0),
  secret_hash bytea NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  last_used_at timestamptz,
  ended_at timestamptz,
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE INDEX ON api_keys (zone, username);
CREATE TABLE recovery_codes (
  zone text NOT NULL,
  username text NOT NULL,
  hash bytea NOT NULL,
  used_at timestamptz,
  PRIMARY KEY (zone, username, hash),
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE TABLE applications (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  description text NOT NULL DEFAULT '',
  role text NOT NULL CHECK (role IN ('admin', 'operator', 'auditor', 'viewer')),
  grants jsonb NOT NULL DEFAULT '{}',
  secret_hash text NOT NULL,
  rate_limit int CHECK (rate_limit >= 0),
  owner text,
  is_active boolean NOT NULL DEFAULT true,
  version int NOT NULL DEFAULT 1,
  secret_rotated_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  UNIQUE (zone, name),
  FOREIGN KEY (zone, owner) REFERENCES users (zone, username) ON DELETE SET NULL (owner)
);
"""

GROUPS = """
-- A group may give its members a role; a team signs off. The owner answers for who is in it.
CREATE TABLE groups (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  description text NOT NULL DEFAULT '',
  kind text NOT NULL DEFAULT 'group' CHECK (kind IN ('group', 'team')),
  role text CHECK (role IN ('admin', 'operator', 'auditor', 'viewer')),
  owner text,
  external_id text,
  source text NOT NULL DEFAULT 'api',
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  FOREIGN KEY (zone, owner) REFERENCES users (zone, username) ON DELETE SET NULL (owner)
);
CREATE UNIQUE INDEX ON groups (zone, lower(name));
CREATE INDEX ON groups (zone, external_id);
CREATE TABLE group_members (
  group_id text NOT NULL REFERENCES groups ON DELETE CASCADE,
  zone text NOT NULL,
  username text NOT NULL,
  source text NOT NULL,
  added_at timestamptz NOT NULL,
  PRIMARY KEY (group_id, username),
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE INDEX ON group_members (zone, username);
-- Who somebody is to the provider that vouches for him: its name for him never changes, his user name may.
CREATE TABLE user_identities (
  zone text NOT NULL,
  provider text NOT NULL,
  subject text NOT NULL,
  username text NOT NULL,
  created_at timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL,
  PRIMARY KEY (zone, provider, subject),
  UNIQUE (zone, provider, username),
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE INDEX ON user_identities (zone, username);
-- What a reviewer said of a person's access: kept, or taken away, and until when it must be looked at again.
CREATE TABLE access_reviews (
  zone text NOT NULL,
  username text NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('keep', 'remove')),
  reviewed_by text NOT NULL,
  note text NOT NULL DEFAULT '',
  reviewed_at timestamptz NOT NULL,
  due_at timestamptz NOT NULL,
  PRIMARY KEY (zone, username),
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
"""

INVENTORY = """
CREATE TABLE credentials (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('bearer', 'basic', 'api_key', 'none')),
  header text,
  sealed bytea,
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  rotated_at timestamptz NOT NULL,
  UNIQUE (zone, name)
);
CREATE TABLE servers (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  endpoint text NOT NULL,
  description text NOT NULL DEFAULT '',
  tags jsonb NOT NULL DEFAULT '{}',
  binding jsonb,
  addresses jsonb NOT NULL DEFAULT '[]',
  resolve_error text,
  resolved_at timestamptz,
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  UNIQUE (zone, name)
);
CREATE TABLE server_hosts (
  host text PRIMARY KEY,
  server_id text NOT NULL REFERENCES servers ON DELETE CASCADE
);
CREATE INDEX ON server_hosts (server_id);
"""

POLICY = """
CREATE TABLE policy_versions (
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  version int NOT NULL,
  sha256 text NOT NULL,
  source text NOT NULL,
  data text NOT NULL DEFAULT '{}',
  description text NOT NULL DEFAULT '',
  dialect text NOT NULL,
  report jsonb NOT NULL,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (zone, name, version),
  UNIQUE (zone, name, sha256)
);
CREATE TABLE policy_sets (
  zone text NOT NULL REFERENCES zones,
  hash text NOT NULL,
  members jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (zone, hash)
);
CREATE TABLE policy_activations (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  hash text NOT NULL,
  previous text,
  kind text NOT NULL CHECK (kind IN ('initial', 'activate', 'deactivate', 'rollback')),
  newly_allowed jsonb NOT NULL DEFAULT '[]',
  comparison jsonb NOT NULL DEFAULT '{}',
  decided_at timestamptz,
  suspect_at timestamptz,
  known_good_at timestamptz,
  activated_by text NOT NULL,
  activated_at timestamptz NOT NULL,
  FOREIGN KEY (zone, hash) REFERENCES policy_sets (zone, hash)
);
CREATE INDEX ON policy_activations (zone, id DESC);
CREATE TABLE decision_inputs (
  zone text NOT NULL,
  digest text NOT NULL,
  sealed bytea NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (zone, digest)
);
CREATE INDEX ON decision_inputs (expires_at);
CREATE INDEX ON decision_inputs (zone, expires_at);
"""

AUTHORITY = """
CREATE TABLE revocations (
  revision bigint PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  kind text NOT NULL CHECK (kind IN ('mandate', 'session', 'application', 'user')),
  key text NOT NULL,
  reason text NOT NULL DEFAULT '',
  revoked_by text NOT NULL,
  revoked_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);
CREATE INDEX ON revocations (zone, kind, key);
CREATE INDEX ON revocations (expires_at);
CREATE TABLE feed (
  revision bigint PRIMARY KEY,
  zone text NOT NULL,
  kind text NOT NULL,
  key text NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE workers (
  id text PRIMARY KEY,
  host text NOT NULL,
  slot text NOT NULL,
  pid int NOT NULL,
  revision bigint NOT NULL,
  policy_sets jsonb NOT NULL DEFAULT '{}',
  started_at timestamptz NOT NULL,
  seen_at timestamptz NOT NULL,
  fenced_at timestamptz
);
CREATE TABLE idempotency_keys (
  zone text NOT NULL,
  caller text NOT NULL,
  key text NOT NULL,
  fingerprint text NOT NULL,
  holder text NOT NULL,
  claimed_until timestamptz NOT NULL,
  status int,
  body bytea,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (zone, caller, key)
);
CREATE INDEX ON idempotency_keys (created_at);
CREATE TABLE api_requests (
  at timestamptz NOT NULL,
  zone text NOT NULL,
  request_id text NOT NULL,
  caller text NOT NULL DEFAULT '',
  method text NOT NULL,
  route text NOT NULL,
  status int NOT NULL,
  duration_us bigint NOT NULL,
  ip text NOT NULL DEFAULT ''
);
CREATE INDEX ON api_requests USING brin (at);
CREATE INDEX ON api_requests (request_id);
CREATE TABLE job_occurrences (
  job text NOT NULL,
  due_at timestamptz NOT NULL,
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'running', 'succeeded', 'failed', 'missed')),
  scheduled boolean NOT NULL DEFAULT true,
  attempts int NOT NULL DEFAULT 0,
  holder text,
  lease_until timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  detail jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (job, due_at)
);
CREATE INDEX ON job_occurrences (due_at) WHERE state IN ('due', 'running');
CREATE UNIQUE INDEX job_occurrences_one_at_a_time ON job_occurrences (job) WHERE state = 'running';
CREATE INDEX ON job_occurrences (job, finished_at) WHERE state = 'succeeded';
"""

SEARCH = """
CREATE TABLE saved_queries (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  owner text NOT NULL,
  name text NOT NULL,
  shared boolean NOT NULL,
  query jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  UNIQUE (zone, owner, name)
);
"""

# Evidence stands in a schema of its own: the app may add and read, never change or remove (12 h partitions by
# recorded_at, so a partition holds a contiguous run of every zone's sequence).
LEDGER = """
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  zone text NOT NULL,
  event bytea NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE spool_positions (
  source text NOT NULL,
  segment bigint NOT NULL,
  position bigint NOT NULL,
  next_sequence bigint NOT NULL,
  unsure_from bigint NOT NULL DEFAULT -1,
  finished boolean NOT NULL DEFAULT false,
  gone boolean NOT NULL DEFAULT false, -- nothing follows; kept for an hour to stop a second reader
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (source, segment)
);
-- An event stands in its columns; "rest" is what has no column (evidence/stored.py puts it together again).
CREATE TABLE ledger.events (
  zone text NOT NULL,
  seq bigint NOT NULL,
  id uuid NOT NULL,
  at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL,
  code text NOT NULL,
  outcome text NOT NULL,
  request_id uuid,
  principal text,
  server text,
  rest bytea NOT NULL
) PARTITION BY RANGE (recorded_at);
CREATE INDEX events_seq ON ledger.events (zone, seq);
CREATE INDEX events_id ON ledger.events (id);
CREATE INDEX events_at ON ledger.events USING brin (at) WITH (pages_per_range = 16);
CREATE INDEX events_request ON ledger.events (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX events_principal ON ledger.events (zone, principal, at);
-- An event's subject, from the rest of its bytes. Few events have one, so the index is small (9 bytes for each).
-- The expression fails for no bytes. It is written so that it is inlined, and is looked for by the same function.
CREATE FUNCTION ledger.subject_hash(rest bytea) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT pg_catalog.hashtext(pg_catalog.encode(
    substring(
      substring(rest FROM nullif(position('"subject":{"id":"'::bytea IN rest), 0))
      FROM 1 FOR position('"},"'::bytea IN substring(rest FROM nullif(position('"subject":{"id":"'::bytea IN rest), 0)))
    ), 'escape'))
$$;
CREATE INDEX events_subject ON ledger.events (ledger.subject_hash(rest)) WHERE ledger.subject_hash(rest) IS NOT NULL;
CREATE TABLE ledger.events_default PARTITION OF ledger.events DEFAULT;
-- The tree of each zone: at level 0 the leaf hash of every event, at level n the root of every full tile of 256 hashes
-- of level n - 1, in runs as they came about. Only ever added to.
CREATE TABLE ledger.hashes (
  zone text NOT NULL,
  level smallint NOT NULL,
  first bigint NOT NULL,
  count int NOT NULL,
  hashes bytea NOT NULL,
  PRIMARY KEY (zone, level, first)
);
ALTER TABLE ledger.hashes ALTER COLUMN hashes SET STORAGE EXTERNAL;
CREATE TABLE ledger.heads (
  zone text NOT NULL,
  size bigint NOT NULL,
  at timestamptz NOT NULL,
  root bytea NOT NULL,
  kid text NOT NULL,
  note bytea NOT NULL,
  PRIMARY KEY (zone, size, at)
);
CREATE INDEX heads_at ON ledger.heads (zone, at);
-- What witnesses signed of the heads' text (C2SP tlog-cosignature), and which heads enough of them signed.
CREATE TABLE ledger.cosignatures (
  zone text NOT NULL,
  size bigint NOT NULL,
  root bytea NOT NULL,
  witness text NOT NULL,
  at timestamptz NOT NULL,
  line text NOT NULL,
  PRIMARY KEY (zone, size, witness, at)
);
CREATE INDEX cosignatures_witness ON ledger.cosignatures (zone, witness, size);
CREATE TABLE ledger.cosigned (
  zone text NOT NULL,
  size bigint NOT NULL,
  root bytea NOT NULL,
  witnesses smallint NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (zone, size, root)
);
CREATE TABLE ledger.dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source text NOT NULL,
  segment bigint NOT NULL,
  position bigint NOT NULL,
  zone text NOT NULL DEFAULT '',
  reason text NOT NULL,
  size bigint NOT NULL,
  frame bytea NOT NULL,
  at timestamptz NOT NULL
);
CREATE TABLE ledger.replays (
  dead_letter bigint PRIMARY KEY REFERENCES ledger.dead_letters,
  at timestamptz NOT NULL
);

CREATE FUNCTION ledger.ensure_partitions(first timestamptz, until timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
  start_at timestamptz := date_bin('12 hours', first, '2000-01-01 00:00:00+00');
  made int := 0;
  part text;
BEGIN
  WHILE start_at < until LOOP
    part := 'events_' || to_char(start_at AT TIME ZONE 'UTC', 'YYYYMMDD_HH24');
    IF to_regclass('ledger.' || part) IS NULL THEN
      EXECUTE format('CREATE TABLE ledger.%I PARTITION OF ledger.events FOR VALUES FROM (%L) TO (%L)',
                     part, start_at, start_at + interval '12 hours');
      made := made + 1;
    END IF;
    start_at := start_at + interval '12 hours';
  END LOOP;
  RETURN made;
END $$;
ALTER FUNCTION ledger.ensure_partitions OWNER TO bailiwick_owner;
"""

# Records of probes and attestations, addressed by their content: the database itself holds id and bytes together.
# `evidence_packs` is the list of packs asked for; what they hold is in their files.
EVIDENCE = """
CREATE TABLE ledger.evidence_outputs (
  sha256 text PRIMARY KEY CHECK (sha256 = encode(sha256(data), 'hex')),
  data bytea NOT NULL CHECK (octet_length(data) <= 1048576)
);
CREATE TABLE ledger.evidence_records (
  id text PRIMARY KEY CHECK (id = encode(sha256(body), 'hex')),
  zone text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('probe', 'attestation')),
  subject text NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL CHECK (until >= since),
  expires_at timestamptz,
  output text NOT NULL REFERENCES ledger.evidence_outputs,
  recorded_at timestamptz NOT NULL,
  number bigint GENERATED ALWAYS AS IDENTITY,
  body bytea NOT NULL
);
CREATE INDEX ON ledger.evidence_records (zone, number);
CREATE INDEX ON ledger.evidence_records (zone, subject, number);
CREATE INDEX ON ledger.evidence_records (zone, until);
CREATE TABLE evidence_packs (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  selection jsonb NOT NULL,
  context jsonb NOT NULL,
  requested_by text NOT NULL,
  requested_at timestamptz NOT NULL,
  state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'building', 'built', 'failed', 'expired')),
  attempts int NOT NULL DEFAULT 0,
  host text NOT NULL DEFAULT '',
  events bigint,
  bytes bigint,
  sha256 text,
  error text NOT NULL DEFAULT '',
  finished_at timestamptz,
  expires_at timestamptz
);
CREATE INDEX ON evidence_packs (zone, id);
CREATE INDEX ON evidence_packs (requested_at) WHERE state IN ('requested', 'building');
"""

# Where evidence is sent. A cursor is a place in the ledger, so nothing is kept twice: what waits for a sink is what
# stands in the ledger from `next_seq` on. `sent_seq` is written before events leave and tells after a death which of
# them may have arrived already.
SIEM = """
CREATE TABLE siem_sinks (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('splunk', 'datadog', 'syslog', 'otlp', 'webhook', 's3')),
  options jsonb NOT NULL,
  sealed bytea NOT NULL,
  format text NOT NULL CHECK (format IN ('native', 'ocsf', 'ecs')),
  filter jsonb NOT NULL,
  redact jsonb NOT NULL,
  batch_size int NOT NULL CHECK (batch_size > 0),
  linger_s double precision NOT NULL CHECK (linger_s >= 0),
  all_zones boolean NOT NULL,
  enabled boolean NOT NULL,
  stopped text,
  stopped_at timestamptz,
  drain_at timestamptz,
  drain_batch int,
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  UNIQUE (zone, name)
);
CREATE TABLE siem_cursors (
  sink text NOT NULL REFERENCES siem_sinks ON DELETE CASCADE,
  zone text NOT NULL REFERENCES zones,
  next_seq bigint NOT NULL CHECK (next_seq >= 0),
  sent_seq bigint NOT NULL,
  generation int NOT NULL DEFAULT 0,
  delivered bigint NOT NULL DEFAULT 0,
  filtered bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (sink, zone)
);
CREATE TABLE siem_state (
  sink text PRIMARY KEY REFERENCES siem_sinks ON DELETE CASCADE,
  holder text NOT NULL,
  breaker text NOT NULL,
  failures int NOT NULL,
  last_error text,
  last_error_at timestamptz,
  delivered_at timestamptz,
  seen_at timestamptz NOT NULL
);
CREATE TABLE siem_dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sink text NOT NULL REFERENCES siem_sinks ON DELETE CASCADE,
  zone text NOT NULL,
  seq bigint NOT NULL,
  event uuid NOT NULL,
  reason text NOT NULL,
  at timestamptz NOT NULL,
  retry_at timestamptz,
  delivered_at timestamptz,
  UNIQUE (sink, zone, seq)
);
CREATE TABLE siem_repeats (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sink text NOT NULL REFERENCES siem_sinks ON DELETE CASCADE,
  zone text NOT NULL,
  first_seq bigint NOT NULL,
  end_seq bigint NOT NULL,
  times int NOT NULL DEFAULT 1,
  at timestamptz NOT NULL,
  UNIQUE (sink, zone, first_seq, end_seq)
);
CREATE INDEX ON siem_repeats (sink, id);
"""

# What is kept of the ledger beside its rows. The app adds manifests and tombstones and never changes them; of an object
# it may note where copies are and when they were proven; rows it can only have dropped, by partition, once the archive
# holds every one of them.
ARCHIVE = """
CREATE TABLE bailiwick.approvals (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES bailiwick.zones,
  action text NOT NULL,
  payload jsonb NOT NULL,
  payload_sha256 text NOT NULL,
  reason text NOT NULL,
  needed int NOT NULL CHECK (needed >= 1),
  requested_by text NOT NULL,
  requested_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  ended text CHECK (ended IN ('executed', 'rejected', 'withdrawn', 'expired')),
  ended_at timestamptz,
  ended_by text,
  CHECK ((ended IS NULL) = (ended_at IS NULL))
);
CREATE INDEX ON bailiwick.approvals (zone, id);
CREATE INDEX ON bailiwick.approvals (action) WHERE ended IS NULL;
CREATE UNIQUE INDEX approvals_one_open ON bailiwick.approvals (zone, action, payload_sha256) WHERE ended IS NULL;
CREATE TABLE bailiwick.approval_votes (
  approval text NOT NULL REFERENCES bailiwick.approvals,
  person text NOT NULL,
  approves boolean NOT NULL,
  comment text NOT NULL DEFAULT '',
  at timestamptz NOT NULL,
  PRIMARY KEY (approval, person)
);

CREATE TABLE ledger.archive_lives (
  zone text PRIMARY KEY,
  seal_days int NOT NULL CHECK (seal_days >= 1),
  hot_days int NOT NULL CHECK (hot_days >= seal_days),
  local_days int NOT NULL CHECK (local_days >= hot_days),
  archive_days int NOT NULL CHECK (archive_days >= local_days),
  version int NOT NULL DEFAULT 1,
  changed_by text NOT NULL,
  changed_at timestamptz NOT NULL
);
CREATE TABLE ledger.archives (
  zone text NOT NULL,
  ordinal bigint NOT NULL,
  window_start timestamptz NOT NULL,
  version int NOT NULL,
  first_seq bigint,
  last_seq bigint,
  events bigint NOT NULL,
  tree_size bigint NOT NULL,
  root bytea NOT NULL,
  note bytea NOT NULL,
  sha256 bytea NOT NULL,
  sealed_at timestamptz NOT NULL,
  remote boolean NOT NULL DEFAULT false,
  PRIMARY KEY (zone, ordinal),
  UNIQUE (zone, window_start, version)
);
CREATE TABLE ledger.archive_objects (
  zone text NOT NULL,
  name text NOT NULL,
  window_start timestamptz NOT NULL,
  version int,
  first_seq bigint NOT NULL,
  last_seq bigint NOT NULL,
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  events bigint NOT NULL CHECK (events = last_seq - first_seq + 1),
  size bigint NOT NULL,
  sha256 bytea NOT NULL,
  local boolean NOT NULL DEFAULT true,
  remote boolean NOT NULL DEFAULT false,
  proven_at timestamptz,
  void_at timestamptz,
  PRIMARY KEY (zone, name)
);
CREATE INDEX ON ledger.archive_objects (zone, first_seq);
CREATE INDEX ON ledger.archive_objects (zone, window_start);
CREATE TABLE ledger.dropped_partitions (
  window_start timestamptz NOT NULL,
  events bigint NOT NULL,
  dropped_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON ledger.dropped_partitions (window_start);
CREATE TABLE ledger.restores (
  zone text NOT NULL,
  window_start timestamptz NOT NULL,
  events bigint NOT NULL,
  restored_by text NOT NULL,
  restored_at timestamptz NOT NULL,
  until timestamptz NOT NULL,
  PRIMARY KEY (zone, window_start, restored_at)
);
CREATE TABLE ledger.holds (
  id text PRIMARY KEY,
  zone text NOT NULL,
  since timestamptz,
  until timestamptz,
  reason text NOT NULL,
  placed_by text NOT NULL,
  placed_at timestamptz NOT NULL,
  released_by text,
  released_at timestamptz
);
CREATE INDEX ON ledger.holds (zone) WHERE released_at IS NULL;
CREATE TABLE ledger.tombstones (
  zone text NOT NULL,
  window_start timestamptz NOT NULL,
  first_seq bigint,
  last_seq bigint,
  events bigint NOT NULL,
  manifest_sha256 bytea NOT NULL,
  approval text NOT NULL,
  event_id uuid NOT NULL,
  purged_at timestamptz NOT NULL,
  removed_at timestamptz,
  PRIMARY KEY (zone, window_start)
);

-- Drops the partition of the twelve hours from start_at on, if the archive was proven within a day to hold all of it.
CREATE FUNCTION ledger.drop_archived_partition(start_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  part text := 'events_' || to_char(start_at AT TIME ZONE 'UTC', 'YYYYMMDD_HH24');
  total bigint;
  missing text;
BEGIN
  IF start_at <> date_bin('12 hours', start_at, '2000-01-01 00:00:00+00') THEN
    RAISE EXCEPTION 'no partition begins at %', start_at USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF to_regclass('ledger.' || part) IS NULL THEN
    RETURN -1;
  END IF;
  EXECUTE format('LOCK TABLE ledger.%I IN SHARE MODE', part);
  EXECUTE format('SELECT count(*) FROM ledger.%I', part) INTO total;
  -- an object is an unbroken run of positions, and no two of a window share one
  EXECUTE format($q$
    SELECT string_agg(rows.zone, ', ' ORDER BY rows.zone)
    FROM (SELECT zone, count(*) AS there FROM ledger.%1$I GROUP BY zone) rows
    WHERE rows.there <> (
      SELECT coalesce(sum((SELECT count(*) FROM ledger.%1$I e
                           WHERE e.zone = o.zone AND e.seq BETWEEN o.first_seq AND o.last_seq)), 0)
      FROM ledger.archive_objects o
      WHERE o.zone = rows.zone AND o.window_start = $1
        AND o.version IS NOT NULL AND o.void_at IS NULL AND o.proven_at > now() - interval '1 day')$q$, part)
    INTO missing USING start_at;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'the archive does not hold every event from % on of: %', start_at, missing
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  LOCK TABLE ONLY ledger.events IN ACCESS EXCLUSIVE MODE;
  EXECUTE format('DROP TABLE ledger.%I', part);
  INSERT INTO ledger.dropped_partitions (window_start, events) VALUES (start_at, total);
  RETURN total;
END $$;
ALTER FUNCTION ledger.drop_archived_partition OWNER TO bailiwick_owner;
REVOKE ALL ON FUNCTION ledger.drop_archived_partition FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.drop_archived_partition TO bailiwick_app;
GRANT SELECT, INSERT ON ledger.archives, ledger.archive_objects, ledger.restores, ledger.holds, ledger.tombstones
  TO bailiwick_app;
GRANT SELECT ON ledger.dropped_partitions TO bailiwick_app;
GRANT SELECT, INSERT, UPDATE ON ledger.archive_lives TO bailiwick_app;
GRANT UPDATE (remote) ON ledger.archives TO bailiwick_app;
GRANT UPDATE (version, local, remote, proven_at, void_at) ON ledger.archive_objects TO bailiwick_app;
GRANT UPDATE (released_by, released_at) ON ledger.holds TO bailiwick_app;
GRANT UPDATE (removed_at) ON ledger.tombstones TO bailiwick_app;
"""

VIEWS = """
CREATE VIEW public.users AS
  SELECT id, zone, username, email, full_name, role, is_active, mfa_enabled, last_login_at, created_at, updated_at
  FROM bailiwick.users;
CREATE VIEW public.servers AS
  SELECT id, zone, name, endpoint, description, tags, created_at, updated_at FROM bailiwick.servers;
CREATE VIEW public.sessions AS
  SELECT id, zone, username, method, ip, user_agent, created_at, expires_at, ended_at, end_reason
  FROM bailiwick.sessions;
CREATE VIEW public.api_requests AS
  SELECT at AS timestamp, zone, request_id, caller, method, route, status, duration_us / 1000.0 AS duration_ms, ip
  FROM bailiwick.api_requests;
CREATE VIEW public.audit_logs AS
  SELECT at AS timestamp, zone, seq, id, code, outcome, principal, server, request_id,
         CASE WHEN code IN ('BW2101', 'BW4001', 'BW4002') THEN id END AS decision_id, recorded_at,
         convert_from(rest, 'UTF8')::jsonb
         || jsonb_build_object('zone', zone, 'id', id, 'code', code, 'outcome', outcome,
           'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
         || jsonb_strip_nulls(jsonb_build_object('request_id', request_id, 'server', server)) AS event
  FROM ledger.events;
"""

GRANTS = """
GRANT USAGE ON SCHEMA bailiwick TO bailiwick_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA bailiwick TO bailiwick_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA bailiwick TO bailiwick_app;
GRANT USAGE ON SCHEMA ledger TO bailiwick_app;
GRANT SELECT, INSERT ON ledger.events, ledger.hashes, ledger.heads TO bailiwick_app;
GRANT SELECT ON public.alembic_version TO bailiwick_app;
GRANT SELECT, INSERT ON ledger.evidence_outputs, ledger.evidence_records TO bailiwick_app;
GRANT SELECT, INSERT ON ledger.dead_letters, ledger.replays TO bailiwick_app;
GRANT SELECT, INSERT ON ledger.cosignatures, ledger.cosigned TO bailiwick_app;
REVOKE ALL ON FUNCTION ledger.ensure_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.ensure_partitions TO bailiwick_app;
GRANT USAGE ON SCHEMA public TO bailiwick_readonly, bailiwick_audit_readonly;
GRANT SELECT ON public.users, public.servers, public.sessions, public.api_requests TO bailiwick_readonly;
GRANT SELECT ON public.audit_logs, public.api_requests TO bailiwick_audit_readonly;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(ROLES)
    op.execute("SET ROLE bailiwick_owner")
    op.execute("SET search_path = bailiwick")
    for script in (PRINCIPALS, GROUPS, INVENTORY, POLICY, AUTHORITY, SEARCH, LEDGER, EVIDENCE, SIEM, ARCHIVE):
        op.execute(script)
    op.execute("RESET ROLE")
    op.execute("RESET search_path")
    op.execute(VIEWS)
    # a view reads with its owner's rights, which is how the readers see no column that is not listed
    for view in ("users", "servers", "sessions", "api_requests", "audit_logs"):
        op.execute(f"ALTER VIEW public.{view} OWNER TO bailiwick_owner")
    op.execute(GRANTS)
