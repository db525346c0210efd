-- Up to where events have been deleted, so that a place among those is not mistaken for one before which there was nothing:
-- positions are missing at the start of a table from which nothing was ever deleted, too. {{schema}} stands for the quoted name of the schema.

CREATE TABLE {{schema}}.event_deleted (
  one         boolean     PRIMARY KEY DEFAULT true CHECK (one),
  position    bigint      NOT NULL, -- the highest of all that were deleted
  recorded_at timestamptz NOT NULL  -- none of them was recorded later
);

-- With the rights of its owner: who may delete events need not be let at this table.
CREATE FUNCTION {{schema}}.note_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO {{schema}}.event_deleted AS d (position, recorded_at)
    SELECT max(position), clock_timestamp() FROM {{schema}}.event HAVING count(position) > 0
    ON CONFLICT (one) DO UPDATE SET position = greatest(d.position, excluded.position), recorded_at = greatest(d.recorded_at, excluded.recorded_at);
  ELSE
    INSERT INTO {{schema}}.event_deleted AS d (position, recorded_at)
    SELECT max(position), max(recorded_at) FROM gone HAVING count(position) > 0
    ON CONFLICT (one) DO UPDATE SET position = greatest(d.position, excluded.position), recorded_at = greatest(d.recorded_at, excluded.recorded_at);
  END IF;
  RETURN NULL;
END
$$;

CREATE TRIGGER note_deleted AFTER DELETE ON {{schema}}.event REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION {{schema}}.note_deleted();
CREATE TRIGGER note_truncated BEFORE TRUNCATE ON {{schema}}.event FOR EACH STATEMENT EXECUTE FUNCTION {{schema}}.note_deleted();

-- What was deleted before: the oldest event's predecessor in its stream was.
INSERT INTO {{schema}}.event_deleted (position, recorded_at)
SELECT position - 1, recorded_at FROM (SELECT position, version, recorded_at FROM {{schema}}.event ORDER BY position LIMIT 1) AS oldest WHERE version > 1;
