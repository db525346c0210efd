-- Replays. {{schema}} stands for the quoted name of the schema.

-- The ledger: an id runs at most once in the life of the store, so its rows outlive their processor.
CREATE TABLE {{schema}}.replay (
  number       bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  processor    text        NOT NULL,
  id           text        NOT NULL,
  groups       text[]      NOT NULL,
  place        jsonb       NOT NULL,                  -- where the groups go back to
  context      jsonb       NOT NULL DEFAULT '{}',
  unguarded    text[]      NOT NULL DEFAULT '{}',     -- groups that may be replayed without a reset
  definition   text        NOT NULL,                  -- that must be wanted, and run by every live worker, before the reset
  state        text        NOT NULL DEFAULT 'Running' CHECK (state IN ('Running', 'Cancelled', 'Abandoned')),
  phase        text        NOT NULL DEFAULT 'Pending'
    CHECK (phase IN ('Pending', 'Resetting', 'Replaying', 'Complete', 'Failed', 'Cancelled', 'Abandoned', 'Superseded')),
  reason       text        NOT NULL DEFAULT '',
  message      text        NOT NULL DEFAULT '',
  done         bigint      NOT NULL DEFAULT 0,
  total        bigint      NOT NULL DEFAULT 0,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  reset_at     timestamptz,
  ended_at     timestamptz,
  PRIMARY KEY (processor, id)
);

ALTER TABLE {{schema}}.processing_group
  ADD COLUMN replay     bigint,                         -- the one that is resetting or running
  ADD COLUMN resetting  boolean NOT NULL DEFAULT false, -- nobody may claim its tokens
  ADD COLUMN incomplete bigint;                         -- the replay that was abandoned; null once another one is complete

-- What a group had handled when it was reset, by parts of the hash space, whatever its segments are. An event is a replay if
-- and only if the part that it belongs to covers it. The rows are there until the replay has ended.
CREATE TABLE {{schema}}.replay_boundary (
  tenant     text    NOT NULL DEFAULT '',
  group_name text    NOT NULL,
  segment    integer NOT NULL,
  mask       integer NOT NULL,
  start      bigint  NOT NULL,                          -- position from which it is handled again, for progress
  position   bigint  NOT NULL,
  snapshot   text    NOT NULL,
  PRIMARY KEY (tenant, group_name, segment),
  FOREIGN KEY (tenant, group_name) REFERENCES {{schema}}.processing_group
);

-- Finds the first event of a time. Times follow positions closely, which is what this kind of index lives on.
CREATE INDEX event_recorded_at ON {{schema}}.event USING brin (recorded_at);
