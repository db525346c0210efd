package postgres_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore"
)

// With 200,000 events, and as many of a writer that has not ended, each arm of a read uses the one index that is right for
// it, whether PostgreSQL plans for the parameters at hand or for any.
func TestReadUsesTheRightIndexes(t *testing.T) {
	url := migrated(t, schema)
	db := pool(t, url)
	insert := `INSERT INTO sluice.event (stream_id, version, type, data) SELECT $1 || n, 1, 'Counted', '{"n": 1}' FROM generate_series(1, 200000) n`
	exec(t, db, insert, "early-")
	writer, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback(t.Context())
	if _, err := writer.Exec(t.Context(), insert, "open-"); err != nil {
		t.Fatal(err)
	}
	exec(t, db, insert, "late-")
	exec(t, db, "VACUUM ANALYZE sluice.event")

	source := postgres.NewSource(db, schema)
	latest := newReader(t, source, tokenstore.Place{Type: tokenstore.Latest})
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data) SELECT 'new-' || n, 1, 'Counted', '{}' FROM generate_series(1, 10) n`)
	current := latest.coverage.Progress()
	for name, args := range map[string][]any{
		"at the head":     {[]int64{0}, []int64{current.Position}, []string{current.Snapshot}, current.Position, current.Position + 200_000, 500, 0, []byte{1}},
		"one of 64":       {[]int64{0}, []int64{current.Position}, []string{current.Snapshot}, current.Position, current.Position + 200_000, 500, 63, []byte{0, 1, 0, 0, 0, 0, 0, 0}},
		"while draining":  {[]int64{0, 250_000}, []int64{250_000, current.Position}, []string{current.Snapshot, strings.Split(current.Snapshot, ":")[0] + ":" + strings.Split(current.Snapshot, ":")[1] + ":"}, current.Position, current.Position + 200_000, 500, 63, []byte{0, 1, 0, 0, 0, 0, 0, 0}},
		"from the start":  {[]int64{}, []int64{}, []string{}, int64(0), int64(200_000), 500, 0, []byte{1}},
		"start, 1 of 64":  {[]int64{}, []int64{}, []string{}, int64(0), int64(200_000), 500, 63, []byte{0, 1, 0, 0, 0, 0, 0, 0}},
		"in the middle":   {[]int64{0}, []int64{300_000}, []string{current.Snapshot}, int64(300_000), int64(500_000), 500, 0, []byte{1}},
		"middle, 1 of 64": {[]int64{0}, []int64{300_000}, []string{current.Snapshot}, int64(300_000), int64(500_000), 500, 63, []byte{0, 1, 0, 0, 0, 0, 0, 0}},
	} {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				plan := explain(t, url, mode, source.ReadSQL(), args)
				if strings.Contains(plan, "Seq Scan on event e") {
					t.Error("a sequential scan")
				}
				scans := regexp.MustCompile(`Index (?:Only )?Scan(?: Backward)? (?:using|on) (\w+)`).FindAllStringSubmatch(plan, -1)
				var got []string
				for _, scan := range scans {
					got = append(got, scan[1])
				}
				if fmt.Sprint(got) != "[event_txid event_txid event_pkey]" {
					t.Errorf("indexes %v, want [event_txid event_txid event_pkey]", got)
				}
				if t.Failed() || testing.Verbose() {
					t.Log(plan)
				}
			})
		}
	}
}

// explain runs the statement as a prepared one, so that the mode decides how it is planned.
func explain(t *testing.T, url, mode, sql string, args []any) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	exec(t, conn, "SET plan_cache_mode = "+mode)
	exec(t, conn, "PREPARE page (bigint[], bigint[], text[], bigint, bigint, bigint, integer, bytea) AS "+sql)
	all := append([]any{pgx.QueryExecModeSimpleProtocol}, args...)
	rows, err := conn.Query(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE page ($1, $2, $3, $4, $5, $6, $7, $8)", all...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}
