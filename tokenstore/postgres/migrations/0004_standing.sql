-- How far definitions and workers are to be trusted. {{schema}} stands for the quoted name of the schema.

ALTER TABLE {{schema}}.definition
  ADD COLUMN proven_at      timestamptz,                     -- a worker of it has committed a batch of each of its groups
  ADD COLUMN idle_at        timestamptz,                     -- a worker of it has, or has stood idle with segments
  ADD COLUMN failures       integer     NOT NULL DEFAULT 0,  -- that speak against it, since it was wanted last and before it was proven
  ADD COLUMN quarantined_at timestamptz;                     -- its workers are given nothing while others can have it

ALTER TABLE {{schema}}.worker
  ADD COLUMN blamed        boolean     NOT NULL DEFAULT false, -- its failure has been counted against its definition
  ADD COLUMN leaving_since timestamptz;                        -- its pod is to be removed

-- The newest plan for which the operator has told Kubernetes which pods to remove first.
ALTER TABLE {{schema}}.processor ADD COLUMN costed bigint NOT NULL DEFAULT 0;
