-- hidden_events fails a statement that may not see all of its events: row level security of the
-- table of events holds for the role that it runs as. Either it was enabled since the events were
-- read, or another statement has changed the role. It is stable so that the events are read only as
-- far as the statement needs them.
CREATE FUNCTION {{schema}}.hidden_events(p_table text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
  RAISE EXCEPTION 'row level security hides rows of % from the role %', p_table, current_user USING ERRCODE = 'insufficient_privilege',
    HINT = 'Give the role BYPASSRLS, or exempt it. A statement that changes the role has to change it back.';
END
$$;
