-- advance does what it did, and waits for a lock of a token for a second at most: then it is
-- lock_not_available, which counts against nobody. Waiting until the group's time limit would look
-- as if the handler had taken the time. Of several tokens, whose caller tries each alone
-- afterwards, it waits for 100 ms, as their statements do.
--
-- It is the fence: the last statement of every batch's transaction. It moves the tokens, or raises
-- SL001 and with it undoes the whole transaction, if any of them has another epoch or version than
-- the caller believes. Tokens are locked in the order of their keys.
--
-- A token's row is looked for from the upper end of its index's entries, where the newest version
-- stands: see 0008. If another transaction moves the token meanwhile, the update waits for it and
-- looks at the row again, which then has another version.
CREATE OR REPLACE FUNCTION {{schema}}.advance(
  p_tenant text, p_groups text[], p_segments integer[], p_epochs bigint[], p_versions bigint[],
  p_positions bigint[], p_snapshots text[], p_release boolean[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET lock_timeout = '1s' AS $$
DECLARE
  i      integer;
  moves  integer[] := '{1}';
  missed integer := 0;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'sluice: a batch runs under %, it has to run under read committed', current_setting('transaction_isolation')
      USING ERRCODE = 'SL003', HINT = 'Do not change the isolation level in a handler.';
  END IF;
  IF cardinality(p_segments) <> 1 THEN
    PERFORM set_config('lock_timeout', '100ms', true);
    moves := ARRAY(SELECT n FROM generate_subscripts(p_segments, 1) AS n ORDER BY p_groups[n], p_segments[n]);
  END IF;
  FOREACH i IN ARRAY moves LOOP
    UPDATE {{schema}}.token t
       SET position = p_positions[i], snapshot = p_snapshots[i], version = t.version + 1,
           owner = CASE WHEN p_release[i] THEN 0 ELSE t.owner END
     WHERE t.ctid = (SELECT l.ctid FROM {{schema}}.token l
                      WHERE (l.tenant, l.group_name, l.segment) <= (p_tenant, p_groups[i], p_segments[i])
                      ORDER BY l.tenant DESC, l.group_name DESC, l.segment DESC LIMIT 1)
       AND t.tenant = p_tenant AND t.group_name = p_groups[i] AND t.segment = p_segments[i]
       AND t.epoch = p_epochs[i] AND t.version = p_versions[i];
    IF NOT FOUND THEN
      missed := missed + 1;
    END IF;
  END LOOP;
  IF missed > 0 THEN
    RAISE EXCEPTION 'sluice: fenced: % of % tokens have moved on', missed, cardinality(p_segments)
      USING ERRCODE = 'SL001';
  END IF;
END
$$;
