-- Whose a processor, a group and a worker is. {{schema}} stands for the quoted name of the schema.

-- Of the operator that declares it; empty until one does that has an id.
ALTER TABLE {{schema}}.processor
  ADD COLUMN installation  text NOT NULL DEFAULT '',
  ADD COLUMN taken_over_at timestamptz;               -- from another installation; null where it was never
ALTER TABLE {{schema}}.processing_group ADD COLUMN installation text NOT NULL DEFAULT '';

-- Defaults are what holds for workers that are older than these columns: their lock is (x'51C3CE', incarnation) where they
-- have session_lock, and their connections are called sluice:N.
ALTER TABLE {{schema}}.worker
  ADD COLUMN lock_class   integer,                    -- it holds the advisory lock (lock_class, incarnation) while it lives
  ADD COLUMN application  text NOT NULL DEFAULT '',   -- application_name of its connections
  ADD COLUMN installation text NOT NULL DEFAULT '';   -- of the operator that made its pod

-- A worker of an installation that does not have the processor must not become a member of it, whatever its version. One that
-- does not know its installation may, until the processor has been taken from one installation by another.
CREATE FUNCTION {{schema}}.admit_worker() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  owner text;
  taken timestamptz;
BEGIN
  SELECT p.installation, p.taken_over_at INTO owner, taken FROM {{schema}}.processor p WHERE p.name = NEW.processor FOR SHARE;
  IF owner <> '' AND NEW.installation <> owner AND (NEW.installation <> '' OR taken IS NOT NULL) THEN
    RAISE EXCEPTION 'sluice: processor % belongs to installation %, this worker is of installation "%"', NEW.processor, owner, NEW.installation
      USING ERRCODE = 'SL010', DETAIL = owner;
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER admit_worker BEFORE INSERT ON {{schema}}.worker FOR EACH ROW EXECUTE FUNCTION {{schema}}.admit_worker();
