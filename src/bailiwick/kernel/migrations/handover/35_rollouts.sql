-- Rollouts. What was planned does not change; what was done, signed and answered is only ever added to.
CREATE TABLE rollouts (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  number integer NOT NULL,
  environment text NOT NULL,
  digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
  plan text NOT NULL,            -- the RolloutPlan, of this version
  plan_version integer NOT NULL,
  plan_sha256 text NOT NULL,     -- of the plan with its variables filled in
  spec jsonb NOT NULL,           -- that plan
  variables jsonb NOT NULL,
  planned_by text NOT NULL,
  planned_at timestamptz NOT NULL,
  state text NOT NULL CHECK (state IN ('planned', 'pending', 'go', 'running', 'waiting', 'deciding', 'rolling_back',
                                       'stuck', 'done', 'rolled_back', 'abandoned', 'no_go')),
  entered_at timestamptz NOT NULL, -- when it came into its state
  told text NOT NULL DEFAULT '', -- what it waits for, or how it ended
  blocked_on text NOT NULL DEFAULT '', -- the step that somebody has to decide about
  round integer NOT NULL DEFAULT 1, -- of signatures
  preflights_after integer NOT NULL DEFAULT 0, -- preflights up to this attempt count no more: they were made anew
  answer text NOT NULL DEFAULT '', -- the GO by which it may start
  answer_until timestamptz,
  started_by text NOT NULL DEFAULT '',
  began_at timestamptz,
  decision_due timestamptz,
  fired text[] NOT NULL DEFAULT '{}', -- triggers that somebody has to decide about
  heeded text[] NOT NULL DEFAULT '{}', -- triggers of this phase that somebody decided to go on against
  rollback_why text NOT NULL DEFAULT '',
  rollback_began_at timestamptz,
  rollback_ended_at timestamptz,
  ended_at timestamptz,
  outcome text NOT NULL DEFAULT '' CHECK (outcome IN ('', 'done', 'rolled_back', 'abandoned')),
  holder text NOT NULL DEFAULT '', -- the process that works on it, by a lease
  lease_until timestamptz,
  version integer NOT NULL DEFAULT 1,
  UNIQUE (zone, number)
);
CREATE INDEX rollouts_newest ON rollouts (zone, environment, planned_at DESC);
CREATE INDEX rollouts_going ON rollouts (id) WHERE outcome = '';
-- an environment is changed by one rollout at a time
CREATE UNIQUE INDEX rollouts_one_going ON rollouts (zone, environment)
  WHERE state IN ('running', 'waiting', 'deciding', 'rolling_back', 'stuck');

-- Every attempt at a step, written before anything is done.
CREATE TABLE rollout_attempts (
  rollout text NOT NULL REFERENCES rollouts,
  number integer NOT NULL,
  step text NOT NULL,
  way text NOT NULL CHECK (way IN ('forward', 'back', 'closing')),
  state text NOT NULL CHECK (state IN ('begun', 'acted', 'passed', 'failed', 'lost')),
  begun_at timestamptz NOT NULL,
  acted_at timestamptz,          -- when the action had been done; its verification may be made again
  since timestamptz,             -- of waiting: since when it is as it should be
  ended_at timestamptz,
  by text NOT NULL DEFAULT '',   -- the person that confirmed it
  told text NOT NULL DEFAULT '',
  record text NOT NULL DEFAULT '', -- evidence of the action, or what a person stated
  verification text NOT NULL DEFAULT '', -- evidence of its verification
  approval text NOT NULL DEFAULT '', -- the request for approval that it waits for, or waited
  PRIMARY KEY (rollout, number)
);
CREATE UNIQUE INDEX rollout_attempts_one_open ON rollout_attempts (rollout, step, way)
  WHERE state IN ('begun', 'acted');

CREATE TABLE rollout_signatures (
  rollout text NOT NULL REFERENCES rollouts,
  round integer NOT NULL,
  by text NOT NULL,
  role text NOT NULL,
  says text NOT NULL CHECK (says IN ('GO', 'NO-GO')),
  why text NOT NULL,
  subject text NOT NULL,         -- SHA-256 of digest, plan and environment that it is about
  at timestamptz NOT NULL,
  PRIMARY KEY (rollout, round, by, says)
);
CREATE UNIQUE INDEX rollout_signatures_one_a_role ON rollout_signatures (rollout, round, role) WHERE says = 'GO';

CREATE TABLE rollout_answers (
  sha256 text PRIMARY KEY,
  number bigint GENERATED ALWAYS AS IDENTITY,
  rollout text NOT NULL REFERENCES rollouts,
  at timestamptz NOT NULL,
  until timestamptz NOT NULL,
  go boolean NOT NULL,
  asked_by text NOT NULL,
  document jsonb NOT NULL
);
CREATE INDEX rollout_answers_newest ON rollout_answers (rollout, number DESC);

-- Gates that were passed, and what was decided at them.
CREATE TABLE rollout_decisions (
  rollout text NOT NULL REFERENCES rollouts,
  number integer NOT NULL,
  gate text NOT NULL,
  what text NOT NULL CHECK (what IN ('passed', 'fired', 'continue', 'retry', 'roll-back', 'no decision')),
  by text NOT NULL,
  why text NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (rollout, number)
);
CREATE UNIQUE INDEX rollout_decisions_passed_once ON rollout_decisions (rollout, gate) WHERE what = 'passed';

CREATE FUNCTION rollout_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.outcome <> '' OR (OLD.id, OLD.zone, OLD.number, OLD.environment, OLD.digest, OLD.plan, OLD.plan_version,
      OLD.plan_sha256, OLD.spec, OLD.variables, OLD.planned_by, OLD.planned_at) IS DISTINCT FROM
     (NEW.id, NEW.zone, NEW.number, NEW.environment, NEW.digest, NEW.plan, NEW.plan_version,
      NEW.plan_sha256, NEW.spec, NEW.variables, NEW.planned_by, NEW.planned_at) THEN
    RAISE EXCEPTION 'what was planned does not change, and what has ended nothing' USING
      ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state = 'running' AND OLD.state = 'go' AND NOT EXISTS (
      SELECT FROM bailiwick.rollout_answers a WHERE a.sha256 = NEW.answer AND a.rollout = NEW.id AND a.go) THEN
    RAISE EXCEPTION 'a rollout starts by a GO' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.state IN ('go', 'running') AND OLD.state IN ('planned', 'pending', 'go') AND EXISTS (
      SELECT FROM bailiwick.rollout_signatures s WHERE s.rollout = NEW.id AND s.says = 'NO-GO') THEN
    RAISE EXCEPTION 'somebody said NO-GO' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER rollout_kept BEFORE UPDATE ON rollouts FOR EACH ROW EXECUTE FUNCTION rollout_kept();

CREATE FUNCTION rollout_attempt_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state IN ('passed', 'failed', 'lost') OR (OLD.rollout, OLD.number, OLD.step, OLD.way, OLD.begun_at)
      IS DISTINCT FROM (NEW.rollout, NEW.number, NEW.step, NEW.way, NEW.begun_at) THEN
    RAISE EXCEPTION 'an attempt that has ended does not change' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER rollout_attempt_kept BEFORE UPDATE ON rollout_attempts
  FOR EACH ROW EXECUTE FUNCTION rollout_attempt_kept();
