-- One exact operation each. What was asked for never changes; what is done is done only upon an executed approval.
CREATE TABLE overrides (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  approval text NOT NULL UNIQUE REFERENCES approvals,
  break_glass boolean NOT NULL,
  operation text NOT NULL,
  arguments jsonb NOT NULL,
  environment text NOT NULL,
  target text NOT NULL,
  target_version text NOT NULL,
  amount bigint NOT NULL,
  payload_sha256 text NOT NULL,
  reason text NOT NULL,
  ticket text NOT NULL,
  risk text NOT NULL CHECK (risk IN ('LOW', 'MEDIUM', 'HIGH', 'CRITICAL')),
  rule text NOT NULL,
  rule_version int NOT NULL,
  requested_by text NOT NULL,
  requested_at timestamptz NOT NULL,
  state text NOT NULL CHECK (state IN ('requested', 'executing', 'done', 'failed', 'stale', 'review_due', 'confirmed',
    'disputed')),
  executed_by text,
  executed_at timestamptz,
  result jsonb NOT NULL DEFAULT '{}',
  why text NOT NULL DEFAULT '',
  attempts int NOT NULL DEFAULT 0,
  review_due timestamptz,
  reviewed_by text,
  reviewed_at timestamptz,
  undo text NOT NULL DEFAULT '' CHECK (undo IN ('', 'done', 'none', 'failed'))
);
CREATE INDEX ON overrides (zone, id);
CREATE INDEX ON overrides (executed_at);
CREATE TABLE override_receipts (
  override text NOT NULL REFERENCES overrides,
  attempt int NOT NULL,
  at timestamptz NOT NULL,
  status int NOT NULL, -- 0: no answer
  body_sha256 text NOT NULL,
  answer text NOT NULL,
  PRIMARY KEY (override, attempt)
);
-- Drawn each month, to be looked at by a person.
CREATE TABLE override_samples (
  zone text NOT NULL REFERENCES zones,
  month text NOT NULL,
  override text NOT NULL REFERENCES overrides,
  PRIMARY KEY (zone, month, override)
);
-- While a row of a zone is not opened, its gateway lets nothing through, or nothing to the server it names (empty: to
-- none). Opening names the override that did it.
CREATE TABLE gateway_closures (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  server text NOT NULL DEFAULT '',
  closed_by text NOT NULL,
  closed_at timestamptz NOT NULL,
  reason text NOT NULL,
  opened_at timestamptz,
  opened_by text REFERENCES overrides,
  CHECK ((opened_at IS NULL) = (opened_by IS NULL))
);
CREATE UNIQUE INDEX ON gateway_closures (zone, server) WHERE opened_at IS NULL;

CREATE FUNCTION override_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.zone, OLD.approval, OLD.break_glass, OLD.operation, OLD.arguments, OLD.environment, OLD.target,
      OLD.target_version, OLD.amount, OLD.payload_sha256, OLD.rule, OLD.requested_by)
     IS DISTINCT FROM
     (NEW.zone, NEW.approval, NEW.break_glass, NEW.operation, NEW.arguments, NEW.environment, NEW.target,
      NEW.target_version, NEW.amount, NEW.payload_sha256, NEW.rule, NEW.requested_by) THEN
    RAISE EXCEPTION 'what was asked for does not change' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state IN ('executing', 'done') AND NOT EXISTS (
      SELECT FROM bailiwick.approvals a WHERE a.id = NEW.approval AND a.ended = 'executed') THEN
    RAISE EXCEPTION 'nobody approved this' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state IN ('review_due', 'confirmed', 'disputed') AND NOT NEW.break_glass THEN
    RAISE EXCEPTION 'no glass was broken' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state = 'confirmed' AND NOT EXISTS (
      SELECT FROM bailiwick.approvals a WHERE a.id = NEW.approval AND a.ended = 'executed') THEN
    RAISE EXCEPTION 'nobody confirmed this' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER override_kept BEFORE UPDATE ON overrides FOR EACH ROW EXECUTE FUNCTION override_kept();

CREATE FUNCTION gateway_opened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.opened_at IS NOT NULL OR NEW.opened_by IS NULL OR NOT EXISTS (
      SELECT FROM bailiwick.overrides o WHERE o.id = NEW.opened_by AND o.zone = NEW.zone
        AND o.operation = 'gateway.open' AND o.target_version = NEW.id AND o.state IN ('done', 'review_due')
        AND o.executed_at >= NEW.closed_at) THEN
    RAISE EXCEPTION 'the gateway is opened by an override' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER gateway_opened BEFORE UPDATE ON gateway_closures FOR EACH ROW EXECUTE FUNCTION gateway_opened();

-- Once a zone had an active policy set, another one becomes active by an approval of exactly that in place of the one
-- that is active, by an override, or because it has proven itself.
CREATE FUNCTION policy_agreed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  active record;
BEGIN
  SELECT p.id, p.hash INTO active FROM bailiwick.policy_activations p WHERE p.zone = NEW.zone ORDER BY p.id DESC LIMIT 1;
  IF NOT FOUND OR EXISTS (
      SELECT FROM bailiwick.approvals a WHERE a.id = NEW.approval AND a.zone = NEW.zone
        AND a.action = 'policy.activate' AND a.ended = 'executed' AND a.payload ->> 'policy_set' = NEW.hash
        AND a.payload ->> 'active' = active.id::text)
    OR EXISTS (
      SELECT FROM bailiwick.overrides o WHERE NEW.kind = 'rollback' AND o.zone = NEW.zone
        AND o.operation = 'policy.rollback' AND o.state = 'done' AND o.target_version = active.id || ':' || active.hash)
    OR (NEW.kind = 'rollback' AND (
      SELECT p.known_good_at IS NOT NULL AND p.suspect_at IS NULL FROM bailiwick.policy_activations p
        WHERE p.zone = NEW.zone AND p.hash = NEW.hash ORDER BY p.id DESC LIMIT 1)) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'nobody agreed to this policy set' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER policy_agreed BEFORE INSERT ON policy_activations FOR EACH ROW EXECUTE FUNCTION policy_agreed();
