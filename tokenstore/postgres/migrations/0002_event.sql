-- Sluice's own event table. {{schema}} stands for the quoted name of the schema.

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
  CHECK (version > 0), CHECK (stream_id <> ''), CHECK (type <> '')
);
CREATE INDEX event_txid ON {{schema}}.event (txid, position);

-- append adds events to a stream and returns the stream's new version.
--
-- p_expected is the version that the stream must have: 0 for a stream without events, NULL for any. It is checked before a
-- position is taken. Where it differs, nothing is written and SL002 is raised.
-- p_events is an array of objects {"type": …, "data": …, "metadata": …, "id": …}; data defaults to {}, metadata to {} and id to a random one.
CREATE FUNCTION {{schema}}.append(p_stream_id text, p_expected bigint, p_events jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_base  bigint;
  v_count integer;
  v_added integer;
BEGIN
  IF p_stream_id IS NULL OR p_stream_id = '' THEN
    RAISE EXCEPTION 'sluice: the stream id is empty' USING ERRCODE = '22023';
  END IF;
  IF p_events IS NULL OR jsonb_typeof(p_events) <> 'array' OR jsonb_array_length(p_events) = 0 THEN
    RAISE EXCEPTION 'sluice: events must be a JSON array of at least one event' USING ERRCODE = '22023';
  END IF;
  v_count := jsonb_array_length(p_events);
  LOOP
    SELECT coalesce(max(version), 0) INTO v_base FROM {{schema}}.event WHERE stream_id = p_stream_id;
    IF p_expected IS NOT NULL AND p_expected <> v_base THEN
      RAISE EXCEPTION 'sluice: stream % is at version %, expected %', p_stream_id, v_base, p_expected USING ERRCODE = 'SL002';
    END IF;
    INSERT INTO {{schema}}.event (stream_id, version, id, type, data, metadata)
    SELECT p_stream_id, v_base + n, coalesce((e ->> 'id')::uuid, gen_random_uuid()), e ->> 'type',
           coalesce(e -> 'data', '{}'), coalesce(e -> 'metadata', '{}')
      FROM jsonb_array_elements(p_events) WITH ORDINALITY AS a (e, n)
     ORDER BY n
    ON CONFLICT (stream_id, version) DO NOTHING;
    GET DIAGNOSTICS v_added = ROW_COUNT;
    IF v_added = v_count THEN
      RETURN v_base + v_count;
    END IF;
    -- Another transaction appended in between. With all or none added the loop can look again; a part cannot be taken back.
    IF v_added > 0 THEN
      RAISE EXCEPTION 'sluice: stream % was appended to by another transaction', p_stream_id USING ERRCODE = 'SL002';
    END IF;
  END LOOP;
END
$$;
