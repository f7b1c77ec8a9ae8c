-- Alerts: at most one is open of a zone and key. A closed or resolved one stays as it is.
CREATE TABLE alerts (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  key text NOT NULL,
  rule text NOT NULL,
  source text NOT NULL CHECK (source IN ('part', 'rule', 'alertmanager', 'manual')),
  state text NOT NULL CHECK (state IN ('pending', 'firing', 'acknowledged', 'resolved', 'closed')),
  severity text NOT NULL CHECK (severity IN ('P0', 'P1', 'P2', 'P3')),
  summary text NOT NULL,
  owner text NOT NULL,          -- an activity of the RACI
  owner_person text NOT NULL,   -- who answered for it when it was opened; empty: nobody
  runbook text NOT NULL,
  labels jsonb NOT NULL,
  annotations jsonb NOT NULL,
  missing text[] NOT NULL,      -- what an alert has to say and this one does not
  group_key text NOT NULL,
  began_at timestamptz NOT NULL,
  pending_until timestamptz,
  fired_at timestamptz,
  last_seen_at timestamptz NOT NULL,
  seen bigint NOT NULL DEFAULT 1,
  frozen_since timestamptz,     -- its data is missing: it neither fires nor resolves
  flapping boolean NOT NULL DEFAULT false,
  quiet_since timestamptz,      -- cleared, but flapping: it resolves once it was quiet long enough
  acknowledged_at timestamptz,
  acknowledged_by text NOT NULL DEFAULT '',
  resolved_at timestamptz,
  closed_at timestamptz,
  closed_by text NOT NULL DEFAULT '',
  closed_as text CHECK (closed_as IN ('true', 'false', 'duplicate')),
  duplicate_of text REFERENCES alerts ON DELETE SET NULL,
  version integer NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX alerts_one_open ON alerts (zone, key) WHERE state IN ('pending', 'firing', 'acknowledged');
CREATE INDEX alerts_newest ON alerts (zone, id DESC);
CREATE INDEX alerts_of_key ON alerts (zone, key, began_at DESC);

-- What became of an alert, line by line; only ever added to.
CREATE TABLE alert_entries (
  alert text NOT NULL REFERENCES alerts ON DELETE CASCADE,
  number integer NOT NULL,
  at timestamptz NOT NULL,
  what text NOT NULL,
  by text NOT NULL,
  told text NOT NULL,
  PRIMARY KEY (alert, number)
);

-- Changes of alerts that nobody was told of yet: left in the transaction of the change, taken by the dispatcher.
CREATE TABLE alert_changes (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  zone text NOT NULL,
  alert text NOT NULL REFERENCES alerts ON DELETE CASCADE,
  what text NOT NULL CHECK (what IN ('fired', 'acknowledged', 'resolved')),
  at timestamptz NOT NULL
);

-- Which channel is to be told what of an alert, and when: the group's wait, business hours and silences move due_at.
CREATE TABLE alert_tellings (
  alert text NOT NULL REFERENCES alerts ON DELETE CASCADE,
  channel text NOT NULL,
  what text NOT NULL CHECK (what IN ('fired', 'acknowledged', 'resolved')),
  zone text NOT NULL,
  route text NOT NULL,
  group_key text NOT NULL,
  due_at timestamptz NOT NULL,
  done_at timestamptz,
  notice text,                  -- null though done: not told, since it resolved first or a storm's notice stood for it
  PRIMARY KEY (alert, channel, what)
);
CREATE INDEX alert_tellings_due ON alert_tellings (zone, due_at) WHERE done_at IS NULL;
CREATE TABLE alert_groups (
  zone text NOT NULL,
  channel text NOT NULL,
  group_key text NOT NULL,
  told_at timestamptz NOT NULL,
  PRIMARY KEY (zone, channel, group_key)
);
CREATE TABLE alert_storms (
  zone text NOT NULL,
  channel text NOT NULL,
  since timestamptz NOT NULL,
  alerts integer NOT NULL,
  PRIMARY KEY (zone, channel, since)
);

CREATE TABLE escalation_steps (
  alert text NOT NULL REFERENCES alerts ON DELETE CASCADE,
  number integer NOT NULL,
  zone text NOT NULL,
  level text NOT NULL,
  due_at timestamptz NOT NULL,
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'done', 'nobody', 'stopped')),
  done_at timestamptz,
  person text NOT NULL DEFAULT '',
  notice text,
  PRIMARY KEY (alert, number)
);
CREATE INDEX escalation_steps_due ON escalation_steps (zone, due_at) WHERE state = 'due';

CREATE TABLE alert_silences (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  matchers jsonb NOT NULL,
  reason text NOT NULL,
  author text NOT NULL,
  begins_at timestamptz NOT NULL,
  ends_at timestamptz NOT NULL,
  ended_at timestamptz,         -- lifted before its end
  ended_by text NOT NULL DEFAULT '',
  CHECK (ends_at > begins_at)
);
CREATE INDEX alert_silences_of ON alert_silences (zone, ends_at);

-- Every evaluation of a rule, and the samples from which growth is told.
CREATE TABLE alert_evaluations (
  zone text NOT NULL REFERENCES zones,
  rule text NOT NULL,
  due_at timestamptz NOT NULL,
  at timestamptz NOT NULL,
  verdict text NOT NULL,
  value double precision,
  threshold double precision,
  told text NOT NULL,
  PRIMARY KEY (zone, rule, due_at)
);
CREATE TABLE alert_samples (
  zone text NOT NULL,
  rule text NOT NULL,
  selector text NOT NULL,
  at timestamptz NOT NULL,
  series jsonb NOT NULL,        -- value by series
  PRIMARY KEY (zone, rule, selector, at)
);

-- What should have been alerted on: tests, drills, incidents. One without an alert was missed.
CREATE TABLE alert_happenings (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  kind text NOT NULL CHECK (kind IN ('test', 'drill', 'incident')),
  reference text NOT NULL,
  began_at timestamptz NOT NULL,
  alert text REFERENCES alerts,
  noted_at timestamptz NOT NULL,
  noted_by text NOT NULL,
  UNIQUE (zone, kind, reference)
);
CREATE TABLE alert_drills (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  fault text NOT NULL,
  target text NOT NULL,
  rule text NOT NULL,           -- whose alert has to come
  state text NOT NULL CHECK (state IN ('injected', 'fired', 'delivered', 'acknowledged', 'missed')),
  started_by text NOT NULL,
  injected_at timestamptz NOT NULL,
  until timestamptz NOT NULL,
  mended_at timestamptz,
  alert text REFERENCES alerts,
  delivery text,
  fired_at timestamptz,
  delivered_at timestamptz,
  acknowledged_at timestamptz,
  -- a later step stands on what it was: an alert, and a receipt
  CHECK (fired_at IS NULL OR alert IS NOT NULL),
  CHECK (delivered_at IS NULL OR (fired_at IS NOT NULL AND delivery IS NOT NULL)),
  CHECK (acknowledged_at IS NULL OR delivered_at IS NOT NULL)
);

-- Messages: left in the transaction that gives cause to them, delivered by the work role.
CREATE TABLE notices (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  key text NOT NULL,
  recipient text NOT NULL,
  subject text NOT NULL,
  body text NOT NULL,
  severity text NOT NULL,
  action text NOT NULL DEFAULT 'tell' CHECK (action IN ('tell', 'trigger', 'acknowledge', 'resolve')),
  dedup_key text NOT NULL DEFAULT '',
  facts jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL,
  spread_at timestamptz,        -- when it was found out to whom it goes
  UNIQUE (zone, key)
);
CREATE INDEX notices_unspread ON notices (created_at) WHERE spread_at IS NULL;
CREATE INDEX notices_newest ON notices (zone, id DESC);

-- One row a notice and address: its receipt.
CREATE TABLE notice_deliveries (
  id text PRIMARY KEY,
  notice text NOT NULL REFERENCES notices ON DELETE CASCADE,
  zone text NOT NULL,
  channel text NOT NULL,
  address text NOT NULL,        -- a mail address; empty where the channel knows it
  dedup_key text NOT NULL,      -- those of one key and channel go out in their order
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'delivered', 'dead', 'not_set_up')),
  attempts integer NOT NULL DEFAULT 0,
  forgiven integer NOT NULL DEFAULT 0, -- attempts before somebody had it tried again
  created_at timestamptz NOT NULL,
  next_at timestamptz NOT NULL,
  holder text,
  lease_until timestamptz,
  fallback_of text,
  delivered_at timestamptz,
  latency_ms integer,
  remote_id text NOT NULL DEFAULT '',
  told text NOT NULL DEFAULT '',
  UNIQUE (notice, channel, address)
);
CREATE INDEX notice_deliveries_thread ON notice_deliveries (dedup_key, id) WHERE dedup_key <> '';
CREATE INDEX notice_deliveries_due ON notice_deliveries (next_at) WHERE state = 'due';
CREATE TABLE notice_attempts (
  delivery text NOT NULL REFERENCES notice_deliveries ON DELETE CASCADE,
  number integer NOT NULL,
  at timestamptz NOT NULL,
  took_ms integer,
  outcome text NOT NULL CHECK (outcome IN ('begun', 'delivered', 'retry', 'refused', 'not_set_up')),
  told text NOT NULL DEFAULT '',
  PRIMARY KEY (delivery, number)
);

CREATE TABLE channel_secrets (
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  sealed bytea NOT NULL,
  set_at timestamptz NOT NULL,
  set_by text NOT NULL,
  version integer NOT NULL DEFAULT 1,
  PRIMARY KEY (zone, name)
);
-- A channel whose secret was taken away could be used before: that is another thing than never having been set up.
CREATE TABLE channel_secrets_removed (
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL,
  removed_at timestamptz NOT NULL,
  removed_by text NOT NULL,
  PRIMARY KEY (zone, name)
);
