-- Handovers. What a pack says never changes; who signed, refused and accepted stands in rows of their own.
CREATE TABLE handovers (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  plan text NOT NULL,
  environment text NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  good_until timestamptz NOT NULL,
  verdict text NOT NULL,
  sha256 text NOT NULL CHECK (sha256 = encode(sha256(document), 'hex')),
  document bytea NOT NULL,       -- canonical JSON
  built_by text NOT NULL,
  built_at timestamptz NOT NULL,
  event text NOT NULL,           -- the event in the ledger that says so
  state text NOT NULL CHECK (state IN ('proposed', 'signed', 'refused', 'superseded', 'accepted')),
  ended_at timestamptz,
  ended_by text NOT NULL DEFAULT '',
  CHECK ((state IN ('proposed', 'signed')) = (ended_at IS NULL))
);
CREATE UNIQUE INDEX handovers_one_open ON handovers (zone, environment) WHERE state IN ('proposed', 'signed');
CREATE INDEX handovers_newest ON handovers (zone, id DESC);
-- One signature a team, each of another person. assertion is what a WebAuthn key answered; null: a step-up.
CREATE TABLE handover_signatures (
  handover text NOT NULL REFERENCES handovers,
  team text NOT NULL CHECK (team IN ('engineering', 'operations', 'security', 'management')),
  person text NOT NULL,
  account text NOT NULL,
  how text NOT NULL CHECK (how IN ('webauthn', 'step-up')),
  sha256 text NOT NULL,
  assertion jsonb,
  at timestamptz NOT NULL,
  event text NOT NULL,
  PRIMARY KEY (handover, team),
  UNIQUE (handover, account),
  CHECK ((how = 'webauthn') = (assertion IS NOT NULL))
);
CREATE TABLE handover_refusals (
  handover text PRIMARY KEY REFERENCES handovers,
  team text NOT NULL,
  person text NOT NULL,
  reason text NOT NULL,
  at timestamptz NOT NULL,
  event text NOT NULL
);
CREATE TABLE handover_acceptances (
  handover text PRIMARY KEY REFERENCES handovers,
  person text NOT NULL,
  at timestamptz NOT NULL,
  event text NOT NULL,
  revision bigint NOT NULL,      -- of the book that it brought
  statement jsonb NOT NULL,
  statement_event text NOT NULL
);

CREATE FUNCTION handover_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.id, OLD.zone, OLD.plan, OLD.environment, OLD.since, OLD.until, OLD.good_until, OLD.verdict, OLD.sha256,
      OLD.document, OLD.built_by, OLD.built_at, OLD.event)
     IS DISTINCT FROM
     (NEW.id, NEW.zone, NEW.plan, NEW.environment, NEW.since, NEW.until, NEW.good_until, NEW.verdict, NEW.sha256,
      NEW.document, NEW.built_by, NEW.built_at, NEW.event)
     OR OLD.state IN ('refused', 'superseded', 'accepted') THEN
    RAISE EXCEPTION 'what a pack says does not change, and one that ended nothing' USING
      ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state IN ('signed', 'accepted') AND (
      SELECT count(DISTINCT s.account) FROM bailiwick.handover_signatures s
      WHERE s.handover = NEW.id AND s.sha256 = NEW.sha256) < 4 THEN
    RAISE EXCEPTION 'four persons sign a handover' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER handover_kept BEFORE UPDATE ON handovers FOR EACH ROW EXECUTE FUNCTION handover_kept();
