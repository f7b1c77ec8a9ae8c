-- Every run, also one that found nothing. "report" and "sha256" are null where it could not be made (verdict ERROR).
CREATE TABLE reconciliation_runs (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  reconciliation text NOT NULL,
  mode text NOT NULL CHECK (mode IN ('delta', 'full', 'manual', 'verify')),
  period text NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'NO_DATA', 'ERROR')),
  error text,
  coverage jsonb NOT NULL DEFAULT '{}',
  totals jsonb NOT NULL DEFAULT '{}',
  new_findings int NOT NULL DEFAULT 0,
  open_findings int NOT NULL DEFAULT 0,
  storm boolean NOT NULL DEFAULT false,
  report jsonb,
  markdown text,
  sha256 text,
  CHECK ((verdict = 'ERROR') = (error IS NOT NULL)),
  CHECK ((report IS NULL) = (sha256 IS NULL))
);
CREATE INDEX ON reconciliation_runs (zone, reconciliation, id);
CREATE INDEX ON reconciliation_runs (zone, id);
-- One difference of one period: a later period that agrees says nothing of an earlier one.
CREATE TABLE reconciliation_findings (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  reconciliation text NOT NULL,
  type text NOT NULL,
  fingerprint text NOT NULL,
  period text NOT NULL,
  side text NOT NULL,
  key jsonb NOT NULL,
  detail jsonb NOT NULL,
  severity text NOT NULL,
  action text NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'acknowledged', 'resolved', 'accepted')),
  first_run text NOT NULL REFERENCES reconciliation_runs DEFERRABLE INITIALLY DEFERRED,
  last_run text NOT NULL REFERENCES reconciliation_runs DEFERRABLE INITIALLY DEFERRED,
  found_at timestamptz NOT NULL,
  seen_at timestamptz NOT NULL,
  alerted boolean NOT NULL DEFAULT false,
  acknowledged_by text,
  acknowledged_at timestamptz,
  resolved_by text,
  resolved_at timestamptz,
  change_id text,
  verified_at timestamptz,
  reopened int NOT NULL DEFAULT 0,
  waiver text,
  accepted_by text,
  snoozed_until timestamptz,
  note text NOT NULL DEFAULT '',
  version int NOT NULL DEFAULT 1,
  UNIQUE (zone, reconciliation, type, fingerprint, period),
  CHECK (state <> 'resolved' OR change_id IS NOT NULL),
  CHECK (state <> 'accepted' OR waiver IS NOT NULL)
);
CREATE INDEX ON reconciliation_findings (zone, id);
CREATE INDEX ON reconciliation_findings (last_run);
CREATE INDEX ON reconciliation_findings (zone, reconciliation, period) WHERE state <> 'resolved' OR verified_at IS NULL;
-- Who moved a finding, when and why. Only added to.
CREATE TABLE reconciliation_moves (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  finding text NOT NULL REFERENCES reconciliation_findings,
  state text NOT NULL,
  at timestamptz NOT NULL,
  by text NOT NULL,
  why text NOT NULL
);
CREATE INDEX ON reconciliation_moves (finding, id);

-- The entitlement ledger, by double entry: what is given and what of it is there. Every posting has both legs, and the
-- legs of a subject and a resource add up to nothing. Only ever added to.
CREATE TABLE entitlement_legs (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  posting text NOT NULL,
  zone text NOT NULL REFERENCES zones,
  subject text NOT NULL,
  resource text NOT NULL,
  leg text NOT NULL CHECK (leg IN ('desired', 'observed')),
  amount smallint NOT NULL CHECK (amount IN (-1, 1)),
  cause text NOT NULL,
  at timestamptz NOT NULL,
  by text NOT NULL,
  UNIQUE (posting, leg)
);
CREATE INDEX ON entitlement_legs (zone, subject, resource);
CREATE FUNCTION entitlement_legs_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'entitlement_legs is only added to' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER entitlement_legs_stay BEFORE UPDATE OR DELETE ON entitlement_legs
  FOR EACH ROW EXECUTE FUNCTION entitlement_legs_stay();
CREATE TRIGGER entitlement_legs_stay_all BEFORE TRUNCATE ON entitlement_legs
  FOR EACH STATEMENT EXECUTE FUNCTION entitlement_legs_stay();
CREATE FUNCTION entitlement_legs_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  posted bigint; whole bigint; given bigint;
BEGIN
  SELECT sum(amount) INTO posted FROM bailiwick.entitlement_legs WHERE posting = NEW.posting;
  SELECT sum(amount), sum(amount) FILTER (WHERE leg = 'desired') INTO whole, given FROM bailiwick.entitlement_legs
  WHERE zone = NEW.zone AND subject = NEW.subject AND resource = NEW.resource;
  IF posted <> 0 OR whole <> 0 OR given NOT IN (0, 1) THEN
    RAISE EXCEPTION 'the legs of an entitlement do not add up' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER entitlement_legs_balance AFTER INSERT ON entitlement_legs
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION entitlement_legs_balance();
-- How far the events of people's roles were posted.
CREATE TABLE entitlement_follow (
  zone text PRIMARY KEY REFERENCES zones,
  next_seq bigint NOT NULL
);
-- How many verdicts the gateway gave by hour, as each run of a worker counted them beside the ledger.
CREATE TABLE gateway_counts (
  zone text NOT NULL REFERENCES zones,
  hour timestamptz NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('allow', 'deny')),
  run text NOT NULL,
  verdicts bigint NOT NULL CHECK (verdicts > 0),
  PRIMARY KEY (zone, hour, outcome, run)
);
