-- Every version of every document of the operating model. "in_force" moves; nothing else is ever changed.
CREATE TABLE assurance_documents (
  zone text NOT NULL REFERENCES zones,
  kind text NOT NULL,
  name text NOT NULL,
  version integer NOT NULL,
  revision bigint NOT NULL, -- of the zone's book
  spec jsonb NOT NULL,      -- empty where the version is a removal
  sha256 text NOT NULL,
  in_force boolean NOT NULL,
  applied_at timestamptz NOT NULL,
  applied_by text NOT NULL,
  PRIMARY KEY (zone, kind, name, version)
);
CREATE UNIQUE INDEX assurance_documents_in_force ON assurance_documents (zone, kind, name) WHERE in_force;
