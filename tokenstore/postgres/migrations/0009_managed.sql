-- foreign_transaction fails a batch whose transaction is not the one that the batch began: its handler has ended that one.
CREATE FUNCTION {{schema}}.foreign_transaction() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'sluice: the transaction that this batch began has been ended' USING ERRCODE = 'SL004',
    HINT = 'A handler returns nil to commit. It must not end its transaction, nor RESET ALL within it.';
END
$$;

-- clean_session takes back what users' statements have left in a session, except for prepared statements and, which the caller does, advisory
-- locks. It has no settings of its own, since those would be restored at its end, and calls no function, since it runs under users' settings and
-- commands cost less.
CREATE FUNCTION {{schema}}.clean_session() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  SET SESSION AUTHORIZATION DEFAULT;
  RESET ROLE;
  RESET ALL;
  EXECUTE 'CLOSE ALL'; -- CLOSE alone is a command of PL/pgSQL
  UNLISTEN *;
  DISCARD TEMP;
END
$$;
