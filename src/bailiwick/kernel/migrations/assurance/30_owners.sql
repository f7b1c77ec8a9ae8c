-- Who answers for each activity, as it was last seen: a change is told to whoever answers from then on.
CREATE TABLE owners_answering (
  zone text NOT NULL REFERENCES zones,
  activity text NOT NULL,
  username text NOT NULL, -- empty while nobody does
  since timestamptz NOT NULL,
  PRIMARY KEY (zone, activity)
);
-- Who stands in for whom on call: of two that overlap, the one made later (the higher number) holds.
CREATE TABLE oncall_overrides (
  id text PRIMARY KEY,
  number bigint GENERATED ALWAYS AS IDENTITY,
  zone text NOT NULL REFERENCES zones,
  rota text NOT NULL,
  level text NOT NULL CHECK (level IN ('primary', 'secondary', 'lead', 'manager', 'management')),
  username text NOT NULL,
  begins_at timestamptz NOT NULL,
  ends_at timestamptz NOT NULL,
  reason text NOT NULL,
  made_by text NOT NULL,
  made_at timestamptz NOT NULL,
  withdrawn_by text,
  withdrawn_at timestamptz,
  CHECK (begins_at < ends_at),
  CHECK ((withdrawn_by IS NULL) = (withdrawn_at IS NULL))
);
CREATE INDEX ON oncall_overrides (zone, ends_at);
-- The one list of what is to be done: of one source, one task is open.
CREATE TABLE assurance_tasks (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  source text NOT NULL,
  title text NOT NULL,
  owner text NOT NULL,
  severity text NOT NULL CHECK (severity IN ('P0', 'P1', 'P2', 'P3')),
  due timestamptz NOT NULL,
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'overdue', 'escalated', 'done', 'closed')),
  misses int NOT NULL DEFAULT 0,
  missed_again_at timestamptz NOT NULL, -- when it is overdue for the next time
  told text NOT NULL DEFAULT '',        -- the owner who was told of it last
  alerting boolean NOT NULL DEFAULT false,
  opened_at timestamptz NOT NULL,
  ended_at timestamptz,
  ended_by text,
  outcome text NOT NULL DEFAULT '',
  version int NOT NULL DEFAULT 1,
  CHECK ((state IN ('done', 'closed')) = (ended_at IS NOT NULL))
);
CREATE UNIQUE INDEX assurance_tasks_open ON assurance_tasks (zone, source) WHERE ended_at IS NULL;
CREATE INDEX ON assurance_tasks (zone, ended_at, due);
CREATE INDEX ON assurance_tasks (zone) WHERE alerting;
