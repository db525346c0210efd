-- What is known of a failing event beside its position, and the mark of a call that is under way.
--
-- A worker writes a mark before it calls the handler for a suspect segment: one whose token was claimed although its last
-- owner had not released it. A mark that the next such claim finds tells that the call did not end: the worker's process
-- died in it, or its connection was lost in it. Other segments have no marks.
ALTER TABLE {{schema}}.failure
  ADD COLUMN last_position bigint,                                      -- of the call's last event; NULL for that at position
  ADD COLUMN calling       boolean     NOT NULL DEFAULT false,          -- a call has begun, and its end is not known
  ADD COLUMN reason        text        NOT NULL DEFAULT '',             -- CamelCase, for conditions
  ADD COLUMN event_type    text        NOT NULL DEFAULT '',
  ADD COLUMN stream        text        NOT NULL DEFAULT '',
  ADD COLUMN sql           jsonb,                                       -- PostgreSQL's error in its parts
  ADD COLUMN tried         bigint[]    NOT NULL DEFAULT '{}',           -- incarnations of the workers at which the event failed
  ADD COLUMN since         timestamptz NOT NULL DEFAULT clock_timestamp(); -- of the first attempt at the event
