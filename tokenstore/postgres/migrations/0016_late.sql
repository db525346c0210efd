-- The transaction of the event that failed, or what else its source knows of it beside its position.
-- An event whose transaction committed after others may lie below its token's position. Only with
-- this can it be told whether its token has passed it.
ALTER TABLE {{schema}}.failure
  ADD COLUMN event_mark bigint NOT NULL DEFAULT 0; -- 0 where it is not known, or the source needs none
