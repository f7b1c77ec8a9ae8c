"""The spine: roles, zones, principals, servers, policy, revocation."""

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
CREATE TABLE identity_providers (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('ldap', 'oidc', 'saml')),
  enabled boolean NOT NULL DEFAULT true,
  options jsonb NOT NULL,
  sealed bytea NOT NULL,
  version int NOT NULL DEFAULT 1,
  -- since when it did not answer when somebody signed in; NULL once it does again
  away_since timestamptz,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  UNIQUE (zone, name)
);
CREATE TABLE users (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  username text NOT NULL,
  email text NOT NULL,
  full_name text NOT NULL DEFAULT '',
  -- the role that holds; own_role is the person's own where a group of his lifts it
  role text NOT NULL CHECK (role IN ('admin', 'operator', 'auditor', 'viewer',
    'ops_owner', 'security_owner', 'finance_owner', 'product_owner', 'none')),
  own_role text CHECK (own_role IN ('admin', 'operator', 'auditor', 'viewer',
    'ops_owner', 'security_owner', 'finance_owner', 'product_owner', 'none')),
  -- the planes he owns beside the role that holds, by his own role or by groups
  owns text[] NOT NULL DEFAULT '{}',
  external_id text,
  profile jsonb NOT NULL DEFAULT '{}',
  is_active boolean NOT NULL DEFAULT true,
  -- 'here', or 'scim:' and whose account: what SCIM disabled the same account may enable again alone
  disabled_by text CHECK (disabled_by = 'here' OR disabled_by LIKE 'scim:%'),
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
  kind text NOT NULL CHECK (kind IN ('totp', 'webauthn')),
  name text NOT NULL,
  secret_sealed bytea,
  last_step bigint NOT NULL DEFAULT -1,
  credential_id bytea CHECK (octet_length(credential_id) BETWEEN 1 AND 1023),
  public_key bytea,
  sign_count bigint NOT NULL DEFAULT 0,
  aaguid text NOT NULL DEFAULT '',
  transports text[] NOT NULL DEFAULT '{}',
  backed_up boolean NOT NULL DEFAULT false,
  disabled_at timestamptz,
  created_at timestamptz NOT NULL,
  confirmed_at timestamptz,
  last_used_at timestamptz,
  CHECK ((kind = 'webauthn') = (credential_id IS NOT NULL AND public_key IS NOT NULL)),
  FOREIGN KEY (zone, username) REFERENCES users (zone, username) ON DELETE CASCADE
);
CREATE INDEX ON factors (zone, username);
CREATE UNIQUE INDEX ON factors (zone, credential_id);
CREATE TABLE passkey_challenges (
  hash bytea PRIMARY KEY,
  zone text NOT NULL,
  purpose text NOT NULL CHECK (purpose IN ('register', 'enrol', 'first', 'second', 'step-up')),
  bound_to text NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);
CREATE INDEX ON passkey_challenges (expires_at);
CREATE TABLE api_keys (
  id text PRIMARY KEY,
  zone text NOT NULL,
  username text NOT NULL,
  name text NOT NULL,
  permissions text[] NOT NULL,
  rate_limit int CHECK (rate_limit > 0),
  is_active boolean NOT NULL DEFAULT true,
  version int NOT NULL DEFAULT 1,
  secret_hash bytea NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
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

INFLUENCE = """
-- Who made, raised or could have entered whose account: for a while the two do not count as two persons.
CREATE TABLE account_influence (
  zone text NOT NULL,
  username text NOT NULL,
  by text NOT NULL,
  how text NOT NULL CHECK (how IN ('made', 'raised', 'entered')),
  at timestamptz NOT NULL
);
CREATE INDEX ON account_influence (zone, at);
-- Who was disabled here and is deleted: what named him (as one person's accounts are told), by which he stays disabled.
CREATE TABLE kept_out (
  zone text NOT NULL REFERENCES zones,
  username text NOT NULL,
  keys text[] NOT NULL,
  since timestamptz NOT NULL,
  by text NOT NULL, -- who deleted the account
  PRIMARY KEY (zone, username)
);
CREATE INDEX ON kept_out USING gin (keys);
"""

GROUPS = """
-- A group may give its members a role; a team signs off. The owner answers for who is in it.
CREATE TABLE groups (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  description text NOT NULL DEFAULT '',
  kind text NOT NULL DEFAULT 'group' CHECK (kind IN ('group', 'team')),
  role text CHECK (role IN ('admin', 'operator', 'auditor', 'viewer',
    'ops_owner', 'security_owner', 'finance_owner', 'product_owner')),
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
  -- the person first: by him they are looked up, and a directory's sign-in must not find this fit for all of its people
  UNIQUE (zone, username, provider),
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

FEDERATION = """
-- Sign-ins under way at an OpenID provider. Of state and cookie only digests; nonce and verifier come of the cookie.
CREATE TABLE oidc_sign_ins (
  state_hash bytea PRIMARY KEY,
  zone text NOT NULL,
  provider_id text NOT NULL REFERENCES identity_providers (id) ON DELETE CASCADE,
  browser_hash bytea NOT NULL,
  return_to text NOT NULL,
  as_cookie boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);
CREATE INDEX ON oidc_sign_ins (expires_at);
-- Whom a provider signed out: a token tells of it once, and a sign-in that began before does not end in a session.
CREATE TABLE provider_logouts (
  zone text NOT NULL,
  method text NOT NULL CHECK (method IN ('oidc', 'saml')),
  issuer text NOT NULL,
  token_hash bytea NOT NULL,
  subject text NOT NULL,
  sids text[] NOT NULL,
  at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (zone, method, issuer, token_hash)
);
CREATE INDEX ON provider_logouts (expires_at);
-- What a provider calls the person and the stay: {"issuer": …, "subject": …, "sid": …, "provider": …}
ALTER TABLE sessions ADD COLUMN origin jsonb NOT NULL DEFAULT '{}';
ALTER TABLE pending_sign_ins ADD COLUMN origin jsonb NOT NULL DEFAULT '{}';
CREATE INDEX ON sessions (zone, (origin->>'issuer'), (origin->>'subject')) WHERE ended_at IS NULL AND origin <> '{}';
-- The ID token that an OpenID provider gave, sealed: the hint by which the person signs out there. It ends with the
-- session, whatever ends that.
ALTER TABLE sessions ADD COLUMN id_token_sealed bytea CHECK (octet_length(id_token_sealed) <= 5000);
ALTER TABLE sessions ADD CHECK (ended_at IS NULL OR id_token_sealed IS NULL);
CREATE INDEX ON sessions (expires_at) WHERE id_token_sealed IS NOT NULL;
CREATE FUNCTION id_token_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.id_token_sealed = NULL;
  RETURN NEW;
END $$;
CREATE TRIGGER id_token_ends BEFORE UPDATE OF ended_at ON sessions
  FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL) EXECUTE FUNCTION id_token_ends();
-- What a sign-in that waits for its second factor keeps of the first: that token, and where its browser goes on to.
ALTER TABLE pending_sign_ins ADD COLUMN id_token_sealed bytea CHECK (octet_length(id_token_sealed) <= 5000);
ALTER TABLE pending_sign_ins ADD COLUMN return_to text NOT NULL DEFAULT '';
ALTER TABLE pending_sign_ins ADD COLUMN as_cookie boolean NOT NULL DEFAULT false;
"""

SAML = """
-- Requests to SAML providers that wait for their answer. Of RelayState and cookie only digests.
CREATE TABLE saml_requests (
  id text PRIMARY KEY,
  zone text NOT NULL,
  provider_id text NOT NULL REFERENCES identity_providers (id) ON DELETE CASCADE,
  kind text NOT NULL CHECK (kind IN ('sign-in', 'logout')),
  relay_hash bytea NOT NULL,
  browser_hash bytea NOT NULL,
  return_to text NOT NULL,
  as_cookie boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);
CREATE INDEX ON saml_requests (expires_at);
-- Assertions and logout requests that were taken: each counts once while it is valid.
CREATE TABLE saml_seen (
  zone text NOT NULL,
  issuer text NOT NULL,
  id_hash bytea NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (zone, issuer, id_hash)
);
CREATE INDEX ON saml_seen (expires_at);
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
  approval text, -- by which two persons agreed to it
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
-- what should run: kept so that others than the scheduler can tell that it does not
CREATE TABLE job_definitions (
  job text PRIMARY KEY,
  grp text NOT NULL,
  schedule text NOT NULL,
  grace_s double precision NOT NULL,
  timeout_s double precision NOT NULL,
  since timestamptz,
  known_at timestamptz NOT NULL -- from when on it is expected by this schedule
);
"""


def upgrade() -> None:
    op.execute(ROLES)
    op.execute("SET ROLE bailiwick_owner")
    op.execute("SET search_path = bailiwick")
    for script in (PRINCIPALS, INFLUENCE, GROUPS, FEDERATION, SAML, INVENTORY, POLICY, AUTHORITY):
        op.execute(script)
    op.execute("RESET ROLE")
    op.execute("RESET search_path")
