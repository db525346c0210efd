CREATE SCHEMA history;

-- Every write to a token, by the transaction that made it. A row's lock orders the writes to it.
CREATE TABLE history.written (
  seq        bigserial PRIMARY KEY,
  xid        xid8      NOT NULL DEFAULT pg_current_xact_id(),
  op         text      NOT NULL,
  group_name text      NOT NULL,
  segment    integer   NOT NULL,
  mask       integer   NOT NULL,
  position   bigint    NOT NULL,
  generation bigint    NOT NULL,
  epoch      bigint    NOT NULL,
  version    bigint    NOT NULL,
  owner      bigint    NOT NULL,
  was_owner  bigint    NOT NULL
);
CREATE INDEX ON history.written (xid);

-- Every event applied to a projection, by the transaction that did so.
CREATE TABLE history.applied (
  seq        bigserial PRIMARY KEY,
  xid        xid8      NOT NULL DEFAULT pg_current_xact_id(),
  group_name text      NOT NULL,
  key        text      NOT NULL,
  position   bigint    NOT NULL,
  replay     boolean   NOT NULL
);
CREATE INDEX ON history.applied (xid);

CREATE FUNCTION history.write() RETURNS trigger LANGUAGE plpgsql AS $f$
DECLARE
  t {{schema}}.token;
BEGIN
  IF TG_OP = 'DELETE' THEN t := OLD; ELSE t := NEW; END IF;
  INSERT INTO history.written (op, group_name, segment, mask, position, generation, epoch, version, owner, was_owner)
  VALUES (left(TG_OP, 1), t.group_name, t.segment, t.mask, t.position, t.generation, t.epoch, t.version, t.owner, CASE WHEN TG_OP = 'INSERT' THEN 0 ELSE OLD.owner END);
  RETURN NULL;
END $f$;
CREATE TRIGGER history AFTER INSERT OR UPDATE OR DELETE ON {{schema}}.token FOR EACH ROW EXECUTE FUNCTION history.write();
-- What was there before.
INSERT INTO history.written (op, group_name, segment, mask, position, generation, epoch, version, owner, was_owner)
SELECT 'I', group_name, segment, mask, position, generation, epoch, version, owner, owner FROM {{schema}}.token;

-- Projections, so that those which are made later, or anew, are followed too.
CREATE TABLE history.followed (name text NOT NULL, function text NOT NULL);

CREATE FUNCTION history.follow(function text, name text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  IF to_regclass(name) IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass(name) AND t.tgname = function) THEN
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION history.%I()', function, name, function);
  END IF;
END $f$;

CREATE FUNCTION history.made() RETURNS event_trigger LANGUAGE plpgsql AS $f$
BEGIN
  PERFORM history.follow(f.function, f.name) FROM history.followed f
    JOIN pg_event_trigger_ddl_commands() c ON c.objid = to_regclass(f.name);
END $f$;
CREATE EVENT TRIGGER history_made ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS') EXECUTE FUNCTION history.made();
