-- The directory and the token store. {{schema}} stands for the quoted name of the schema.

CREATE TABLE {{schema}}.meta (
  only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  store_id          uuid    NOT NULL,
  -- Transaction ids in tokens mean nothing in another database cluster.
  system_identifier bigint  NOT NULL,
  -- Workers that speak an older protocol must not run.
  min_protocol      integer NOT NULL
);
INSERT INTO {{schema}}.meta (store_id, system_identifier, min_protocol)
SELECT gen_random_uuid(), system_identifier, 1 FROM pg_control_system();

-- The directory: one row a processor, its definitions, workers and assignments.

CREATE TABLE {{schema}}.processor (
  name            text        PRIMARY KEY,            -- cluster/namespace/name
  definition      text        NOT NULL,               -- the wanted one
  replicas        integer     NOT NULL,
  live            jsonb       NOT NULL,               -- what takes effect without a rollout
  revision        bigint      NOT NULL DEFAULT 1,     -- grows with every change of this row by its owner
  plan            bigint      NOT NULL DEFAULT 0,     -- number of the newest plan
  planner         text        NOT NULL DEFAULT '',    -- who made it
  members         bigint[]    NOT NULL DEFAULT '{}',  -- incarnations that it took into account
  plan_renewed_at timestamptz NOT NULL DEFAULT 'epoch'
);

-- Numbers order definitions by when they were last wanted; going back to an old one gives it a new number.
CREATE TABLE {{schema}}.definition (
  processor text   NOT NULL REFERENCES {{schema}}.processor ON DELETE CASCADE,
  id        text   NOT NULL,
  number    bigint NOT NULL,
  PRIMARY KEY (processor, id)
);

-- Setups of SQL handlers that have been carried out.
CREATE TABLE {{schema}}.setup (
  processor  text        NOT NULL REFERENCES {{schema}}.processor ON DELETE CASCADE,
  definition text        NOT NULL,
  group_name text        NOT NULL,
  done_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (processor, definition, group_name)
);

CREATE SEQUENCE {{schema}}.incarnation;

CREATE TABLE {{schema}}.worker (
  incarnation  bigint      PRIMARY KEY,
  nonce        uuid        NOT NULL,                  -- incarnations repeat after a restore, pairs do not
  processor    text        NOT NULL,
  pod          text        NOT NULL,
  definition   text        NOT NULL,
  handlers     text[]      NOT NULL,                  -- Go handlers that its binary has registered
  version      text        NOT NULL,
  protocol     integer     NOT NULL,
  session_lock boolean     NOT NULL,                  -- it holds the advisory lock (x'51C3CE', incarnation) while it lives
  state        text        NOT NULL CHECK (state IN ('Active', 'Draining', 'Ended')),
  started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_until  timestamptz NOT NULL,
  report       jsonb       NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
CREATE INDEX worker_processor ON {{schema}}.worker (processor);

-- Apart from the token, so that a planner never waits for a batch's row lock.
CREATE TABLE {{schema}}.assignment (
  processor  text    NOT NULL REFERENCES {{schema}}.processor ON DELETE CASCADE,
  group_name text    NOT NULL,
  segment    integer NOT NULL,
  worker     bigint  NOT NULL,                        -- incarnation
  plan       bigint  NOT NULL,
  PRIMARY KEY (processor, group_name, segment)
);

-- The token store: next to the projections, so that one transaction covers both.

CREATE TABLE {{schema}}.processing_group (
  tenant         text    NOT NULL DEFAULT '',
  name           text    NOT NULL,
  processor      text    NOT NULL,                    -- the only one that may claim its tokens
  segments       integer NOT NULL CHECK (segments BETWEEN 1 AND 32767),
  sequencing     text    NOT NULL,
  hash           text    NOT NULL,
  min_definition bigint  NOT NULL DEFAULT 0,          -- workers of definitions with a lower number must not claim
  epoch_floor    bigint  NOT NULL DEFAULT 0,          -- tokens made anew start above it
  retired_at     timestamptz,
  PRIMARY KEY (tenant, name)
);

-- The hot row. No index on what a batch changes: its updates stay heap-only.
CREATE TABLE {{schema}}.token (
  tenant     text     NOT NULL DEFAULT '',
  group_name text     NOT NULL,
  segment    integer  NOT NULL,
  mask       integer  NOT NULL,
  position   bigint   NOT NULL,
  snapshot   text     NOT NULL,                       -- the rest of the progress, in the source's own notation
  generation bigint   NOT NULL DEFAULT 1,             -- grows with every reset
  epoch      bigint   NOT NULL,                       -- grows with every claim, split, merge and reset; never goes back
  version    bigint   NOT NULL,                       -- grows with every write; never goes back
  owner      bigint   NOT NULL DEFAULT 0,             -- incarnation, 0 for nobody
  PRIMARY KEY (tenant, group_name, segment),
  FOREIGN KEY (tenant, group_name) REFERENCES {{schema}}.processing_group,
  CHECK (segment BETWEEN 0 AND mask), CHECK (mask BETWEEN 0 AND 32767)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- The halves of a merged segment that have not met yet.
CREATE TABLE {{schema}}.token_part (
  tenant       text    NOT NULL DEFAULT '',
  group_name   text    NOT NULL,
  segment      integer NOT NULL,
  part_segment integer NOT NULL,
  part_mask    integer NOT NULL,
  position     bigint  NOT NULL,
  snapshot     text    NOT NULL,
  PRIMARY KEY (tenant, group_name, segment, part_segment),
  FOREIGN KEY (tenant, group_name, segment) REFERENCES {{schema}}.token ON DELETE CASCADE
) WITH (fillfactor = 50);

-- A row only while something fails.
CREATE TABLE {{schema}}.failure (
  tenant     text        NOT NULL DEFAULT '',
  group_name text        NOT NULL,
  segment    integer     NOT NULL,
  position   bigint      NOT NULL,                    -- the event that failed
  attempts   integer     NOT NULL,
  retry_at   timestamptz NOT NULL,
  failed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  message    text        NOT NULL,
  PRIMARY KEY (tenant, group_name, segment),
  FOREIGN KEY (tenant, group_name, segment) REFERENCES {{schema}}.token ON DELETE CASCADE
);

-- The fence: the last statement of every batch's transaction. It moves the tokens, or raises SL001 and with it undoes
-- the whole transaction, when any of them has another epoch or version than the caller believes. It has to raise: in a
-- pipeline the COMMIT is on its way before a client could look at a row count.
CREATE FUNCTION {{schema}}.advance(
  p_tenant text, p_groups text[], p_segments integer[], p_epochs bigint[], p_versions bigint[],
  p_positions bigint[], p_snapshots text[], p_release boolean[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  moved integer;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'sluice: a batch runs under %, it has to run under read committed', current_setting('transaction_isolation')
      USING ERRCODE = 'SL003', HINT = 'Do not change the isolation level in a handler.';
  END IF;
  IF cardinality(p_segments) > 1 THEN
    PERFORM 1 FROM {{schema}}.token t
      JOIN unnest(p_groups, p_segments) AS a (group_name, segment) USING (group_name, segment)
     WHERE t.tenant = p_tenant
     ORDER BY t.group_name, t.segment FOR NO KEY UPDATE OF t;
  END IF;
  UPDATE {{schema}}.token t
     SET position = a.position, snapshot = a.snapshot, version = t.version + 1,
         owner = CASE WHEN a.release THEN 0 ELSE t.owner END
    FROM unnest(p_groups, p_segments, p_epochs, p_versions, p_positions, p_snapshots, p_release)
      AS a (group_name, segment, epoch, version, position, snapshot, release)
   WHERE t.tenant = p_tenant AND t.group_name = a.group_name AND t.segment = a.segment
     AND t.epoch = a.epoch AND t.version = a.version;
  GET DIAGNOSTICS moved = ROW_COUNT;
  IF moved <> cardinality(p_segments) THEN
    RAISE EXCEPTION 'sluice: fenced: % of % tokens have moved on', cardinality(p_segments) - moved, cardinality(p_segments)
      USING ERRCODE = 'SL001';
  END IF;
END
$$;
