package postgres_test

import (
	"encoding/json"
	"testing"
)

// TestATokensFormerVersionsAreNotGoneThrough moves a token some thousand times while a transaction stays open that has written, so that none
// of its former versions can be vacuumed: a move then touches few pages, not all that these lie in.
func TestATokensFormerVersionsAreNotGoneThrough(t *testing.T) {
	store, pool := declared(t, 2)
	ctx := t.Context()
	token := claim(t, store, 1, tokens(t, store)...)[0]
	open, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Rollback(ctx) //nolint:errcheck // nothing rests on it
	if _, err := open.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_current_xact_id()`); err != nil {
		t.Fatal(err)
	}
	const moves, most = 5_000, 25
	move := `sluice.advance('', ARRAY[$1::text], ARRAY[$2::integer], ARRAY[$3::bigint], ARRAY[$4::bigint], ARRAY[1::bigint], ARRAY[''], ARRAY[false])`
	if _, err := pool.Exec(ctx, `CREATE PROCEDURE moves(text, integer, bigint, bigint, moves bigint) LANGUAGE plpgsql AS $$ BEGIN
		FOR i IN 0 .. moves - 1 LOOP
			PERFORM sluice.advance('', ARRAY[$1], ARRAY[$2], ARRAY[$3], ARRAY[$4 + i], ARRAY[1::bigint], ARRAY[''], ARRAY[false]);
			COMMIT;
		END LOOP; END $$`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, `CALL moves($1, $2, $3, $4, $5)`, token.Group, token.Segment, token.Epoch, token.Version, moves); err != nil {
		t.Fatal(err)
	}
	var pages int64
	if err := pool.QueryRow(ctx, `SELECT pg_relation_size('sluice.token') / current_setting('block_size')::bigint`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if pages < 2*most {
		t.Fatalf("vacuous: the versions lie in %d pages", pages)
	}
	least := int64(1 << 60) // one in some puts a version into a new page, and an entry into the index
	for i := range int64(5) {
		var explained []byte
		if err := pool.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT "+move, token.Group, token.Segment, token.Epoch, token.Version+moves+i).Scan(&explained); err != nil {
			t.Fatal(err)
		}
		var plans []struct {
			Plan struct {
				Hit  int64 `json:"Shared Hit Blocks"`
				Read int64 `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal(explained, &plans); err != nil {
			t.Fatal(err)
		}
		least = min(least, plans[0].Plan.Hit+plans[0].Plan.Read)
	}
	if least > most || least == 0 {
		t.Errorf("a move touches %d pages at least, of the %d that versions lie in; want at most %d", least, pages, most)
	}
}
