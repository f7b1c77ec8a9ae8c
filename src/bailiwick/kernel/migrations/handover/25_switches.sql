-- While a row is not lifted, what it names is off in its zone. Lifting names the override that did it.
CREATE TABLE switches (
  id text PRIMARY KEY,
  zone text NOT NULL REFERENCES zones,
  name text NOT NULL CHECK (name IN ('mint', 'exchange', 'approve', 'activate', 'provision', 'freeze', 'read-only')),
  reason text NOT NULL,
  thrown_by text NOT NULL,
  thrown_at timestamptz NOT NULL,
  thrown_as text NOT NULL REFERENCES overrides,
  lifted_at timestamptz,
  lifted_by text REFERENCES overrides,
  CHECK ((lifted_at IS NULL) = (lifted_by IS NULL))
);
CREATE UNIQUE INDEX switches_one_thrown ON switches (zone, name) WHERE lifted_at IS NULL;

CREATE FUNCTION switch_lifted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.lifted_at IS NOT NULL OR (OLD.id, OLD.zone, OLD.name, OLD.thrown_by, OLD.thrown_at, OLD.thrown_as)
       IS DISTINCT FROM (NEW.id, NEW.zone, NEW.name, NEW.thrown_by, NEW.thrown_at, NEW.thrown_as)
     OR NEW.lifted_by IS NULL OR NOT EXISTS (
      SELECT FROM bailiwick.overrides o WHERE o.id = NEW.lifted_by AND o.zone = NEW.zone
        AND o.operation = 'switch.lift' AND o.state = 'done' AND NOT o.break_glass
        AND o.executed_at >= NEW.thrown_at) THEN
    RAISE EXCEPTION 'a switch is lifted by an override of two persons' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER switch_lifted BEFORE UPDATE ON switches FOR EACH ROW EXECUTE FUNCTION switch_lifted();
