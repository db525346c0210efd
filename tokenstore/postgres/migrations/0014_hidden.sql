-- hidden_events fails a batch whose statements may not have seen all of their events: row level
-- security of the table of events holds for the role that they have run as. Either it was enabled
-- since the events were read, or a statement has changed the role.
CREATE FUNCTION {{schema}}.hidden_events(p_table text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'row level security hides rows of % from the role %', p_table, current_user USING ERRCODE = 'insufficient_privilege',
    HINT = 'Give the role BYPASSRLS, or exempt it. A statement that changes the role has to change it back.';
END
$$;
