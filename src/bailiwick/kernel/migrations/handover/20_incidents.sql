-- Incidents. What happened in one is only ever added to; what it stands at changes, and none is removed.
CREATE TABLE incidents (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  number integer NOT NULL,
  key text NOT NULL,             -- what makes two openings the same incident
  trigger text NOT NULL,         -- the IncidentTrigger that opened it; empty: by hand
  title text NOT NULL,
  severity text NOT NULL CHECK (severity IN ('P0', 'P1', 'P2', 'P3')),
  class text NOT NULL CHECK (class IN ('security', 'availability', 'evidence', 'operations')),
  state text NOT NULL CHECK (state IN ('open', 'contained', 'recovered', 'reviewed', 'closed')),
  drill text NOT NULL DEFAULT '', -- the drill it belongs to; empty: it is real
  public text NOT NULL DEFAULT '', -- what the status page says of it; empty: nothing but that something is wrong
  runbook text NOT NULL DEFAULT '',
  exits text[] NOT NULL,         -- what must be so before its severity may drop, beside recovery
  began_at timestamptz NOT NULL,
  opened_at timestamptz NOT NULL,
  opened_by text NOT NULL,
  commander text NOT NULL DEFAULT '',
  scribe text NOT NULL DEFAULT '',
  alert text NOT NULL DEFAULT '', -- the alert by which it escalates
  acknowledged_at timestamptz,
  contained_at timestamptz,
  pack text NOT NULL DEFAULT '', -- the evidence pack that preserves it
  preserved_at timestamptz,
  recovered_at timestamptz,
  recovered_by text NOT NULL DEFAULT '',
  review_due timestamptz,
  reviewed_at timestamptz,
  review jsonb,
  closed_at timestamptz,
  closed_by text NOT NULL DEFAULT '',
  update_due timestamptz,        -- when people have to be told the next time; null: nobody waits for news
  updates_missed integer NOT NULL DEFAULT 0,
  version integer NOT NULL DEFAULT 1,
  UNIQUE (zone, number)
);
CREATE UNIQUE INDEX incidents_one_open ON incidents (zone, key) WHERE state IN ('open', 'contained');
CREATE INDEX incidents_newest ON incidents (zone, id DESC);

-- The timeline. ref is what the line is of, so that nothing stands in it twice.
CREATE TABLE incident_entries (
  incident text NOT NULL REFERENCES incidents,
  number integer NOT NULL,
  at timestamptz NOT NULL,       -- when it happened
  noted_at timestamptz NOT NULL,
  what text NOT NULL,
  by text NOT NULL,
  told text NOT NULL,
  ref text,
  PRIMARY KEY (incident, number)
);
CREATE UNIQUE INDEX incident_entries_once ON incident_entries (incident, ref) WHERE ref IS NOT NULL;
CREATE TABLE incident_alerts (
  incident text NOT NULL REFERENCES incidents,
  alert text NOT NULL,
  linked_at timestamptz NOT NULL,
  PRIMARY KEY (incident, alert)
);
-- What was measured when somebody asked whether it is over; once a row says PASS it was, at that moment.
CREATE TABLE incident_judgements (
  incident text NOT NULL REFERENCES incidents,
  number integer NOT NULL,
  at timestamptz NOT NULL,
  by text NOT NULL,
  verdict text NOT NULL,
  conditions jsonb NOT NULL,
  PRIMARY KEY (incident, number)
);
-- Actions of containment: a row is written in the transaction that does the action, and settled when every worker is
-- known to have it. One that nobody settled belongs to a process that ended in between.
CREATE TABLE incident_containments (
  override text PRIMARY KEY REFERENCES overrides,
  incident text NOT NULL REFERENCES incidents,
  action text NOT NULL,
  sha256 text NOT NULL,          -- of the preview that was read
  by text NOT NULL,
  done_at timestamptz NOT NULL,
  settled_at timestamptz,
  uncut text[] NOT NULL DEFAULT '{}' -- live streams that it did not cut
);
CREATE INDEX incident_containments_of ON incident_containments (incident, sha256);
CREATE INDEX incident_containments_unsettled ON incident_containments (done_at) WHERE settled_at IS NULL;
-- What the review found to be done. Verified by somebody else than who did it, with evidence.
CREATE TABLE incident_actions (
  incident text NOT NULL REFERENCES incidents,
  number integer NOT NULL,
  title text NOT NULL,
  owner text NOT NULL,
  due timestamptz NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'done', 'verified')),
  done_by text NOT NULL DEFAULT '',
  verified_by text NOT NULL DEFAULT '',
  record text NOT NULL DEFAULT '',
  changed_at timestamptz NOT NULL,
  PRIMARY KEY (incident, number),
  CHECK (state <> 'verified' OR (record <> '' AND verified_by <> done_by))
);
-- Executions of runbooks, of an incident or dry; a step is judged once and stays so.
CREATE TABLE runbook_runs (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  runbook text NOT NULL,
  version integer NOT NULL,
  incident text REFERENCES incidents,
  dry boolean NOT NULL,
  started_by text NOT NULL,
  started_at timestamptz NOT NULL,
  steps jsonb NOT NULL,          -- as the document said them then
  ended_at timestamptz,
  outcome text CHECK (outcome IN ('done', 'abandoned'))
);
CREATE INDEX runbook_runs_newest ON runbook_runs (zone, runbook, started_at DESC);
CREATE TABLE runbook_steps (
  run text NOT NULL REFERENCES runbook_runs,
  number integer NOT NULL,
  verdict text NOT NULL,
  at timestamptz NOT NULL,
  by text NOT NULL,
  told text NOT NULL,
  record text NOT NULL DEFAULT '',
  PRIMARY KEY (run, number)
);
CREATE TABLE incident_drills (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  trigger text NOT NULL,
  started_by text NOT NULL,
  injected_at timestamptz NOT NULL,
  until timestamptz NOT NULL,
  incident text REFERENCES incidents,
  opened_at timestamptz,
  acknowledged_at timestamptz,
  contained_at timestamptz,
  ended_at timestamptz,
  outcome text CHECK (outcome IN ('passed', 'missed', 'late'))
);

CREATE FUNCTION incident_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.id, OLD.zone, OLD.number, OLD.key, OLD.trigger, OLD.drill, OLD.began_at, OLD.opened_at, OLD.opened_by)
     IS DISTINCT FROM
     (NEW.id, NEW.zone, NEW.number, NEW.key, NEW.trigger, NEW.drill, NEW.began_at, NEW.opened_at, NEW.opened_by)
     OR OLD.state = 'closed' THEN
    RAISE EXCEPTION 'how an incident began does not change, and a closed one nothing' USING
      ERRCODE = 'insufficient_privilege';
  END IF;
  IF OLD.class = 'security' AND NEW.class <> 'security' THEN
    RAISE EXCEPTION 'a security incident stays one' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state IN ('recovered', 'reviewed', 'closed') AND (NEW.preserved_at IS NULL OR NOT EXISTS (
      SELECT FROM bailiwick.incident_judgements j WHERE j.incident = NEW.id AND j.verdict = 'PASS')) THEN
    RAISE EXCEPTION 'an incident is over when that was measured, and its evidence preserved' USING
      ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state = 'closed' AND EXISTS (
      SELECT FROM bailiwick.incident_actions a WHERE a.incident = NEW.id AND a.state <> 'verified') THEN
    RAISE EXCEPTION 'actions of the review are not verified' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER incident_kept BEFORE UPDATE ON incidents FOR EACH ROW EXECUTE FUNCTION incident_kept();
