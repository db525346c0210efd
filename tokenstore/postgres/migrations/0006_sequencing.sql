-- Sequencing policies. {{schema}} stands for the quoted name of the schema.

-- By group, what the definition has that the replay is bound to: the reset makes it the group's.
ALTER TABLE {{schema}}.replay ADD COLUMN sequencing jsonb;

-- Policy and hash of the group before the reset: the boundary's segment is meant by them.
ALTER TABLE {{schema}}.replay_boundary ADD COLUMN sequencing text NOT NULL DEFAULT 'Stream/pg1';
