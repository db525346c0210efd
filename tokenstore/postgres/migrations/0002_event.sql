-- Sluice's own event table. {{schema}} stands for the quoted name of the schema.
--
-- Who may append needs USAGE of the schema, INSERT of (stream_id, version, id, type, data, metadata) and SELECT of
-- (stream_id, version), and must not have more: txid and position are never a client's.

CREATE TABLE {{schema}}.event (
  position    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- The top-level transaction, so that savepoints do not matter.
  txid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
  stream_id   text        NOT NULL,
  version     bigint      NOT NULL,                   -- 1 for the first event of the stream
  id          uuid        NOT NULL DEFAULT gen_random_uuid(),
  type        text        NOT NULL,
  data        jsonb       NOT NULL,
  metadata    jsonb       NOT NULL DEFAULT '{}',
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- The sequence key's hash, as far as a segment can select by it.
  slice       smallint    NOT NULL GENERATED ALWAYS AS ((hashtextextended(stream_id COLLATE "C", 0) & 32767)::smallint) STORED,
  UNIQUE (stream_id, version),
  CHECK (position > 0), CHECK (version > 0), CHECK (stream_id <> ''), CHECK (type <> '')
);
-- Finds late events. Its second column is an expression, so that a condition on it can be answered by this index and by no
-- other: with a plain column the planner walks the primary key instead, which is the whole table.
CREATE INDEX event_txid ON {{schema}}.event (txid, (position + 0));

-- append adds events to a stream, all or none, and returns the stream's new version.
--
-- p_expected is the version that the stream must have: 0 for a stream without events, NULL for any. It is checked before a
-- position is taken. Where it differs, nothing is written and SL002 is raised, with {"actual": …} as its detail.
-- p_events is an array of objects {"type": …, "data": …, "metadata": …, "id": …}; data and metadata default to {}, also
-- where they are null, and id to a random one.
CREATE FUNCTION {{schema}}.append(p_stream_id text, p_expected bigint, p_events jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_base  bigint;
  v_count integer;
  v_wrong text;
BEGIN
  IF p_stream_id IS NULL OR p_stream_id = '' THEN
    RAISE EXCEPTION 'sluice: the stream id is empty' USING ERRCODE = '22023';
  END IF;
  IF p_expected < 0 THEN
    RAISE EXCEPTION 'sluice: the expected version is %, it has to be 0 or higher, or NULL for any', p_expected USING ERRCODE = '22023';
  END IF;
  IF p_events IS NULL OR jsonb_typeof(p_events) <> 'array' OR jsonb_array_length(p_events) = 0 THEN
    RAISE EXCEPTION 'sluice: events must be a JSON array of at least one event' USING ERRCODE = '22023';
  END IF;
  v_count := jsonb_array_length(p_events);
  SELECT format('event %s of %s: ', n, v_count) || CASE
           WHEN jsonb_typeof(e) <> 'object' THEN format('it is not a JSON object but: %s', left(e::text, 100))
           WHEN coalesce(e ->> 'type', '') = '' THEN 'type is missing or empty'
           ELSE format('field %s is not known, choose type, data, metadata or id',
             (SELECT quote_literal(k) FROM jsonb_object_keys(e) k WHERE k NOT IN ('type', 'data', 'metadata', 'id') LIMIT 1)) END
    INTO v_wrong
    FROM jsonb_array_elements(p_events) WITH ORDINALITY AS a (e, n)
   WHERE CASE WHEN jsonb_typeof(e) = 'object' THEN coalesce(e ->> 'type', '') = '' OR e - '{type,data,metadata,id}'::text[] <> '{}' ELSE true END
   ORDER BY n LIMIT 1;
  IF v_wrong IS NOT NULL THEN
    RAISE EXCEPTION 'sluice: %', v_wrong USING ERRCODE = '22023';
  END IF;
  LOOP
    SELECT coalesce(max(version), 0) INTO v_base FROM {{schema}}.event WHERE stream_id = p_stream_id;
    IF p_expected <> v_base THEN
      RAISE EXCEPTION 'sluice: stream % is at version %, expected %', p_stream_id, v_base, p_expected
        USING ERRCODE = 'SL002', DETAIL = jsonb_build_object('actual', v_base);
    END IF;
    -- The first event decides: it waits for another transaction that is about to take the same version. Who has got it
    -- has the next ones too, because others see none of them before this transaction has ended.
    INSERT INTO {{schema}}.event (stream_id, version, id, type, data, metadata)
    SELECT p_stream_id, v_base + 1, coalesce((e ->> 'id')::uuid, gen_random_uuid()), e ->> 'type',
           coalesce(nullif(e -> 'data', 'null'), '{}'), coalesce(nullif(e -> 'metadata', 'null'), '{}')
      FROM (SELECT p_events -> 0 AS e) AS a
    ON CONFLICT (stream_id, version) DO NOTHING;
    EXIT WHEN FOUND;
  END LOOP;
  IF v_count > 1 THEN
    INSERT INTO {{schema}}.event (stream_id, version, id, type, data, metadata)
    SELECT p_stream_id, v_base + n, coalesce((e ->> 'id')::uuid, gen_random_uuid()), e ->> 'type',
           coalesce(nullif(e -> 'data', 'null'), '{}'), coalesce(nullif(e -> 'metadata', 'null'), '{}')
      FROM jsonb_array_elements(p_events) WITH ORDINALITY AS a (e, n)
     WHERE n > 1
     ORDER BY n;
  END IF;
  RETURN v_base + v_count;
END
$$;
