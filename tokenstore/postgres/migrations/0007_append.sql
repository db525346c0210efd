-- append does what it did, with one statement for one event: the checks of an array and the look at the version were statements of their own.
CREATE OR REPLACE FUNCTION {{schema}}.append(p_stream_id text, p_expected bigint, p_events jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_base  bigint;
  v_count integer;
  v_wrong text;
  v_event jsonb;
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
  v_event := p_events -> 0;
  IF v_count = 1 AND jsonb_typeof(v_event) = 'object' AND coalesce(v_event ->> 'type', '') <> '' AND v_event - '{type,data,metadata,id}'::text[] = '{}' THEN
    -- Its condition is checked before a row is made. No row means that the version is another one, or is being taken: see below.
    INSERT INTO {{schema}}.event (stream_id, version, id, type, data, metadata)
    SELECT p_stream_id, s.version + 1, coalesce((v_event ->> 'id')::uuid, gen_random_uuid()), v_event ->> 'type',
           coalesce(nullif(v_event -> 'data', 'null'), '{}'), coalesce(nullif(v_event -> 'metadata', 'null'), '{}')
      FROM (SELECT coalesce(max(version), 0) AS version FROM {{schema}}.event WHERE stream_id = p_stream_id) AS s
     WHERE p_expected IS NULL OR s.version = p_expected
    ON CONFLICT (stream_id, version) DO NOTHING
    RETURNING version INTO v_base;
    IF FOUND THEN
      RETURN v_base;
    END IF;
  END IF;
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
