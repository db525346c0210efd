-- How the tries of a replay's reset ended. {{schema}} stands for the quoted name of the schema.

ALTER TABLE {{schema}}.replay
  ADD COLUMN attempts integer NOT NULL DEFAULT 0, -- tries that ended without success, those that only lacked a lock left out
  ADD COLUMN failures integer NOT NULL DEFAULT 0, -- of these, those that speak against the reset: after a few it has failed
  ADD COLUMN calling  bigint  NOT NULL DEFAULT 0; -- the worker that calls the reset handlers; a worker that ends in the call leaves it
