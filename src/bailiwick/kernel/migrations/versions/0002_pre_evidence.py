"""Evidence: the ledger, what is kept and sent of it, the views for readers, and who may touch what."""

from __future__ import annotations

from alembic import op

revision = "0002_pre_evidence"
down_revision = "0001_pre_spine"
branch_labels = None
depends_on = None

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
CREATE TABLE audit_exports (
  zone text NOT NULL REFERENCES zones,
  request_id uuid NOT NULL,
  manifest jsonb NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (zone, request_id)
);
CREATE INDEX audit_exports_at ON audit_exports (at);
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
-- What was seen to be missing behind a published head, when it was first seen, and how a log went on after that.
CREATE TABLE ledger.losses (
  zone text NOT NULL,
  epoch int NOT NULL,
  known bigint NOT NULL,
  note bytea NOT NULL,
  kept bigint NOT NULL,
  seen_at timestamptz NOT NULL,
  PRIMARY KEY (zone, epoch, known)
);
CREATE TABLE ledger.continuations (
  zone text NOT NULL,
  epoch int NOT NULL,
  kept bigint NOT NULL,
  known bigint NOT NULL,
  known_root bytea NOT NULL,
  note bytea NOT NULL,
  at timestamptz NOT NULL,
  event_id uuid NOT NULL,
  leaf bytea NOT NULL,
  approval text NOT NULL,
  PRIMARY KEY (zone, epoch)
);
-- The statement of a continuation and what was said to its approval, as they stand in the ledger: rows leave it.
CREATE TABLE ledger.continuation_entries (
  zone text NOT NULL,
  epoch int NOT NULL,
  seq bigint NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (zone, epoch, seq)
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
  event uuid NOT NULL, -- by which it came into the ledger
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
  expires_at timestamptz,
  kept boolean NOT NULL DEFAULT false, -- it does not end by itself
  section text NOT NULL DEFAULT '', -- what is written now, and how far
  done bigint NOT NULL DEFAULT 0,
  expected bigint NOT NULL DEFAULT 0
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
  -- who may approve: of these roles, another than the requester's; accounts that had to do with his count as his
  roles text[] NOT NULL DEFAULT '{}',
  other_role boolean NOT NULL DEFAULT false,
  window_s int NOT NULL DEFAULT 0,
  requester_id text NOT NULL DEFAULT '',
  requester_role text NOT NULL DEFAULT '',
  requester_owns text[] NOT NULL DEFAULT '{}',
  concerns text NOT NULL DEFAULT '',
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
  account text NOT NULL DEFAULT '',
  role text NOT NULL DEFAULT '',
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
GRANT SELECT, INSERT ON ledger.losses, ledger.continuations, ledger.continuation_entries TO bailiwick_app;
REVOKE ALL ON FUNCTION ledger.ensure_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.ensure_partitions TO bailiwick_app;
GRANT USAGE ON SCHEMA public TO bailiwick_readonly, bailiwick_audit_readonly;
GRANT SELECT ON public.users, public.servers, public.sessions, public.api_requests TO bailiwick_readonly;
GRANT SELECT ON public.audit_logs, public.api_requests TO bailiwick_audit_readonly;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute("SET ROLE bailiwick_owner")
    op.execute("SET search_path = bailiwick")
    for script in (SEARCH, LEDGER, EVIDENCE, SIEM, ARCHIVE):
        op.execute(script)
    op.execute("RESET ROLE")
    op.execute("RESET search_path")
    op.execute(VIEWS)
    # a view reads with its owner's rights, which is how the readers see no column that is not listed
    for view in ("users", "servers", "sessions", "api_requests", "audit_logs"):
        op.execute(f"ALTER VIEW public.{view} OWNER TO bailiwick_owner")
    op.execute(GRANTS)
