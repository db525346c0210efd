-- advance does what it did, but finds a token's row from the upper end of its index's entries. While some transaction of the server that has
-- written stays open, nothing that was written since can be vacuumed, and each batch leaves a version of the row behind: from the lower end all of
-- them would be looked at, by every batch. The newest one stands last, as long as no space before it could be used again. Whatever the order, what is
-- found is right, since one version at most is visible. Equalities would have the planner forget the order, so the row is the highest up to the key.
--
-- It is the fence: the last statement of every batch's transaction. It moves the tokens, or raises SL001 and with it undoes the whole transaction, when any of
-- them has another epoch or version than the caller believes. Tokens are locked in the order of their keys.
CREATE OR REPLACE FUNCTION {{schema}}.advance(
  p_tenant text, p_groups text[], p_segments integer[], p_epochs bigint[], p_versions bigint[],
  p_positions bigint[], p_snapshots text[], p_release boolean[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  a      record;
  latest tid;
  missed integer := 0;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'sluice: a batch runs under %, it has to run under read committed', current_setting('transaction_isolation')
      USING ERRCODE = 'SL003', HINT = 'Do not change the isolation level in a handler.';
  END IF;
  FOR a IN
    SELECT * FROM unnest(p_groups, p_segments, p_epochs, p_versions, p_positions, p_snapshots, p_release)
      AS move (group_name, segment, epoch, version, position, snapshot, release)
     ORDER BY move.group_name, move.segment
  LOOP
    SELECT t.ctid INTO latest FROM {{schema}}.token t
     WHERE (t.tenant, t.group_name, t.segment) <= (p_tenant, a.group_name, a.segment)
     ORDER BY t.tenant DESC, t.group_name DESC, t.segment DESC LIMIT 1;
    UPDATE {{schema}}.token t
       SET position = a.position, snapshot = a.snapshot, version = t.version + 1,
           owner = CASE WHEN a.release THEN 0 ELSE t.owner END
     WHERE t.ctid = latest
       AND t.tenant = p_tenant AND t.group_name = a.group_name AND t.segment = a.segment
       AND t.epoch = a.epoch AND t.version = a.version;
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
