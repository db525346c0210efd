package postgres_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// planned are the ways in which PostgreSQL plans: for the parameters at hand, for any, as it is
// told to where pages follow one another, and in a session of its own for pages.
var planned = []string{"force_custom_plan", "force_generic_plan", "kept", "in a session for pages"}

// With a million events, a third of which belong to a writer that has not ended, each arm of a read uses the one index that is right for it:
// whether PostgreSQL plans for the parameters at hand or for any, and whether it has counted the rows or believes that there are a thousand.
func TestReadUsesTheRightIndexes(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]int{"own table": 1_000_000, "outbox": 1_000_000, "partitioned by range": 100_000, "partitioned by hash": 100_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			readUsesTheRightIndexes(t, subjects[name](t), rows/3)
		})
	}
}

func readUsesTheRightIndexes(t *testing.T, on *subject, third int) {
	db, table := on.db, strings.Join(on.copyTo, ".")
	for _, leaf := range column[string](t, db, "SELECT relid::regclass::text FROM pg_partition_tree($1::text::regclass) WHERE isleaf UNION SELECT $1 WHERE NOT EXISTS (SELECT FROM pg_partition_tree($1::text::regclass))", table) {
		exec(t, db, "ALTER TABLE "+leaf+" SET (autovacuum_enabled = false)") // which would count them
	}
	insert := on.insert + ` SELECT $1 || n, 1, 'Counted', '{"n": 1}' FROM generate_series(1, $2::integer) n`
	exec(t, db, insert, "first-", 1000)
	exec(t, db, "ANALYZE "+table)
	exec(t, db, insert, "early-", third)
	writer, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback(context.WithoutCancel(t.Context()))
	if _, err := writer.Exec(t.Context(), insert, "open-", third); err != nil {
		t.Fatal(err)
	}
	exec(t, db, insert, "late-", third)
	latest := newReader(t, on.source, progress.StartPosition{Type: progress.Latest})
	exec(t, db, insert, "new-", 10)
	current := latest.coverage.Progress()
	t.Run("stale", func(t *testing.T) { plansAreRight(t, on, current) })
	exec(t, db, "VACUUM ANALYZE "+table)
	t.Run("counted", func(t *testing.T) { plansAreRight(t, on, current) })
}

// plansAreRight looks at the plans of reads by who has come to the head, who drains, and who is behind.
func plansAreRight(t *testing.T, on *subject, current progress.Progress) {
	head, middle, snapshot := current.Position, current.Position/2, current.State[strings.LastIndex(current.State, " ")+1:]
	bounds := strings.Split(snapshot, ":")
	ended := bounds[0] + ":" + bounds[1] + ":"
	whole, one := []any{0, []byte{1}}, []any{63, []byte{0, 1, 0, 0, 0, 0, 0, 0}}
	type read struct {
		args   []any
		slices []any
	}
	reads := map[string]read{
		"at the head":    {[]any{[]int64{0}, []int64{head}, []string{snapshot}, head, 500, head + 200_000}, whole},
		"while draining": {[]any{[]int64{0, middle}, []int64{middle, head}, []string{snapshot, ended}, head, 500, head + 200_000}, one},
		"from the start": {[]any{[]int64{}, []int64{}, []string{}, int64(0), 500, int64(200_000)}, whole},
		"in the middle":  {[]any{[]int64{0}, []int64{middle}, []string{snapshot}, middle, 500, middle + 200_000}, whole},
	}
	if strings.Contains(on.source.ReadSQL(), "$8") {
		reads["one of 64"] = read{slices.Clone(reads["at the head"].args), one}
		reads["start, 1 of 64"] = read{slices.Clone(reads["from the start"].args), one}
		reads["middle, 1 of 64"] = read{slices.Clone(reads["in the middle"].args), one}
	}
	for name, r := range reads {
		args := r.args[:5]
		if strings.Contains(on.source.ReadSQL(), "$8") {
			args = append(r.args, r.slices...)
		}
		for _, mode := range planned {
			t.Run(name+" "+mode, func(t *testing.T) {
				plan := explain(t, on.db.Config().ConnConfig.ConnString(), mode, on.source.ReadSQL(), pageKinds[:len(args)], args)
				arms := armsOf(plan)
				if strings.Contains(plan, " outbox_1") {
					// Of a partition that nobody has counted PostgreSQL believes that few rows lie between two positions, and then reads these at once.
					arms = strings.ReplaceAll(arms, "b", "p")
				}
				if !regexp.MustCompile(`^t{2,}p+$`).MatchString(arms) {
					t.Errorf("the arms use %q: want the index on (txid, position + 0) for both that find late events, and then that of the position", arms)
				}
				// What is looked at is what is given, not what there is: a page of 500, or nothing but where it would be.
				if most := 10_000; buffers(t, plan) > most {
					t.Errorf("%d blocks were looked at, want %d at most", buffers(t, plan), most)
				}
				if t.Failed() || testing.Verbose() {
					t.Log(plan)
				}
			})
		}
	}
}

var scan = regexp.MustCompile(`(Seq Scan|Index (?:Only )?Scan(?: Backward)? using (\w+)) on (?:\w+\.)?\w+ e(?:_\d+)?\s|Bitmap Index Scan on (\w+)`)

// armsOf writes a letter for each scan of events: t by the index of transactions, p by that of the position, b by a bitmap of the latter, ! by
// none or another.
func armsOf(plan string) (arms string) {
	for _, match := range scan.FindAllStringSubmatch(plan, -1) {
		switch name := match[2] + match[3]; {
		case strings.HasPrefix(name, "pg_"): // of the catalogs
		case strings.Contains(name, "txid"):
			arms += "t"
		case strings.HasSuffix(match[2], "_pkey"):
			arms += "p"
		case strings.HasSuffix(match[3], "_pkey"):
			arms += "b"
		default:
			arms += "!"
		}
	}
	return arms
}

// buffers is the number of blocks that the whole statement has looked at.
func buffers(t *testing.T, plan string) int {
	t.Helper()
	var hit, read int
	line := regexp.MustCompile(`Buffers: shared (?:hit=(\d+))? ?(?:read=(\d+))?`).FindStringSubmatch(plan)
	if line == nil {
		t.Fatalf("no buffers in\n%s", plan)
	}
	fmt.Sscan(line[1], &hit)
	fmt.Sscan(line[2], &read)
	return hit + read
}

// pageKinds are the types of the parameters of a read.
var pageKinds = []string{"bigint[]", "bigint[]", "text[]", "bigint", "bigint", "bigint", "integer", "bytea"}

// explain runs the statement as a prepared one, so that the mode decides how it is planned.
func explain(t *testing.T, url, mode, sql string, kinds []string, args []any) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	switch mode {
	case "kept":
		exec(t, conn, "BEGIN")
		exec(t, conn, postgres.KeepPlan)
	case "in a session for pages":
		for name, value := range postgres.PageSettings() {
			exec(t, conn, fmt.Sprintf("SET %s = %s", name, value))
		}
	default:
		exec(t, conn, "SET plan_cache_mode = "+mode)
	}
	exec(t, conn, "PREPARE page ("+strings.Join(kinds, ", ")+") AS "+sql)
	var places []string
	for i := range args {
		places = append(places, fmt.Sprint("$", i+1))
	}
	lines := column[string](t, conn, "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE page ("+strings.Join(places, ", ")+")", append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	return strings.Join(lines, "\n")
}

// The event before another one in its stream is looked up in the index of streams and numbers, once for each event that is given, however many gaps there are and wherever
// the page begins.
func TestTheEventBeforeIsLookedUpByIndex(t *testing.T) {
	on := withoutTransactions["taken early"](t)
	exec(t, on.db, "ALTER TABLE outbox SET (autovacuum_enabled = false)")
	insert := "INSERT INTO outbox (id, aggregate, number, type, payload) SELECT 2 * n, 'stream-' || n % 5000, n, 'Counted', '{}' FROM generate_series($1::integer, $2::integer) AS n"
	exec(t, on.db, insert, 1, 1000)
	exec(t, on.db, "ANALYZE outbox")
	exec(t, on.db, insert, 1001, 200_000)
	var low, high []int64
	for i := range int64(1000) {
		low, high = append(low, 2*i+1), append(high, 2*i+2)
	}
	look := func(t *testing.T) {
		for name, args := range map[string][]any{
			"from the start": {[]int64{}, []int64{}, int64(0), 500},
			"in the middle":  {[]int64{}, []int64{}, int64(200_000), 500},
			"in the gaps":    {low, high, int64(400_000), 1000},
		} {
			for _, mode := range planned {
				t.Run(name+" "+mode, func(t *testing.T) {
					plan := explain(t, on.db.Config().ConnConfig.ConnString(), mode, on.source.ReadSQL(), []string{"bigint[]", "bigint[]", "bigint", "bigint"}, args)
					// One look-up for each arm that gives events.
					if all, right := strings.Count(plan, " on outbox b"), strings.Count(plan, "Index Scan Backward using outbox_aggregate_number_key on outbox b"); all != 2 || right != 2 {
						t.Errorf("%d of %d look-ups of the event before use the index of streams and numbers", right, all)
					}
					// A gap, the event in it and the one before it take about three blocks each; nothing is looked at that is not given.
					if most := 12_000; buffers(t, plan) > most {
						t.Errorf("%d blocks were looked at, want %d at most", buffers(t, plan), most)
					}
					if t.Failed() || testing.Verbose() {
						t.Log(plan)
					}
				})
			}
		}
	}
	t.Run("stale", look)
	exec(t, on.db, "VACUUM ANALYZE outbox")
	t.Run("counted", look)
}

// Who began to read when there was nothing goes on to walk indexes when there is much, though the plan was made of a table of no blocks.
func TestAPlanThatIsKeptIsRightForAFullerTable(t *testing.T) {
	for name, mapping := range map[string]*definition.Table{"own table": nil, "outbox": &outbox, "outbox, by gaps": new(unaltered(definition.PositionsInserted, ""))} {
		t.Run(name, func(t *testing.T) {
			on := ownTable(t)
			if mapping != nil {
				on = outboxTable(t, "")
			}
			table := on.copyTo.Sanitize()
			exec(t, on.db, "ALTER TABLE "+table+" SET (autovacuum_enabled = false)") // it would have the plan made anew, some time
			exec(t, on.db, "VACUUM ANALYZE "+table)
			config, err := pgxpool.ParseConfig(on.db.Config().ConnConfig.ConnString())
			if err != nil {
				t.Fatal(err)
			}
			config.MaxConns = 1
			session, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			r := newReader(t, postgres.Open(session, schema, definition.Source{Table: mapping}), progress.StartPosition{Type: progress.Earliest})
			readByKeptPlans := func(pages int64) {
				t.Helper()
				generic := func() int64 {
					return column[int64](t, session, "SELECT coalesce(sum(generic_plans), 0)::bigint FROM pg_prepared_statements WHERE strpos(statement, 'pg_current_' || 'snapshot()::text') > 0")[0]
				}
				for until := generic() + pages; generic() < until; {
					r.next(10)
				}
			}
			readByKeptPlans(1)
			exec(t, on.db, on.insert+" SELECT 'stream-' || n, 1, 'Happened', '{}' FROM generate_series(1, 20000) AS n")
			readByKeptPlans(20)
			if at := r.coverage.Position(); at < 50 || at > 10_000 {
				t.Fatalf("the reader is at %d, want it to be somewhere in the middle", at)
			}
			exec(t, session, "SELECT pg_stat_force_next_flush()")
			if n := column[int64](t, on.db, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = $1::text::regclass", table)[0]; n > 0 {
				t.Errorf("%d rows were looked at one after another, want each found by an index", n)
			}
		})
	}
}

// alone is a database that fails the test for each statement that needs another one before it.
type alone struct {
	postgres.DB
	t *testing.T
}

func (a alone) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	a.t.Errorf("%d statements were sent: %s", b.Len(), b.QueuedQueries[0].SQL)
	return a.DB.SendBatch(ctx, b)
}

// TestAPageIsOneStatementInASessionForPages however closely pages follow one another.
func TestAPageIsOneStatementInASessionForPages(t *testing.T) {
	on := ownTable(t)
	config := on.db.Config()
	for name, value := range postgres.PageSettings() {
		config.ConnConfig.RuntimeParams[name] = value
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for i := range 5 {
		if err := on.append(t.Context(), fmt.Sprint("stream-", i), 4); err != nil {
			t.Fatal(err)
		}
	}
	r := newReader(t, on.source.Through(alone{pool, t}), earliest, segment.Root)
	for range 5 {
		if n := len(r.next(4).Events); n != 4 {
			t.Fatalf("%d events of 4", n)
		}
	}
}
