package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/segment"
)

// addEvents inserts three events.
const addEvents = "INSERT INTO outbox (aggregate, number, type, payload) SELECT gen_random_uuid(), 1, 'Happened', '{}' FROM generate_series(1, 3)"

// A table that is altered while it is read is either read on, with no event lost and none given
// twice, or not any more, and then the error says why.
func TestATableThatIsAlteredWhileItIsRead(t *testing.T) {
	const back = "set back"
	for name, c := range map[string]struct {
		on     string // "gaps", "transactions" or both where it is empty
		alter  string
		want   string // in the error; empty where reading goes on
		repair string // after which it goes on
		stays  bool   // stopped, also after the repair
		given  int    // events after all, where not those of the table
	}{
		"emptied and restarted":                {on: "gaps", alter: "TRUNCATE outbox RESTART IDENTITY;" + addEvents, want: "RESTART IDENTITY", repair: addEvents + ";" + addEvents, stays: true},
		"emptied and restarted far":            {on: "gaps", alter: "TRUNCATE outbox RESTART IDENTITY;" + addEvents + ";" + addEvents + ";" + addEvents, want: "RESTART IDENTITY", stays: true},
		"emptied and restarted, transactions":  {on: "transactions", alter: "TRUNCATE outbox RESTART IDENTITY;" + addEvents, given: 6},
		"set back":                             {on: "gaps", alter: "DELETE FROM outbox; SELECT setval('outbox_id_seq', 1, false);" + insertEvent, want: back, repair: addEvents + ";" + addEvents, stays: true},
		"set back to the last but one":         {on: "gaps", alter: "SELECT setval('outbox_id_seq', 2)", want: back, repair: "SELECT setval('outbox_id_seq', 3)", stays: true},
		"emptied":                              {alter: "TRUNCATE outbox;" + addEvents, given: 6},
		"rewritten":                            {alter: "ALTER TABLE outbox ALTER COLUMN id TYPE bigint;" + addEvents},
		"more columns and indexes":             {alter: "ALTER TABLE outbox ADD COLUMN sent boolean; CREATE INDEX ON outbox (type); GRANT SELECT ON outbox TO public;" + addEvents},
		"a cache":                              {alter: "ALTER SEQUENCE outbox_id_seq CACHE 20", want: "CACHE 20", repair: "ALTER SEQUENCE outbox_id_seq CACHE 1;" + addEvents},
		"a cache for a moment":                 {alter: "ALTER SEQUENCE outbox_id_seq CACHE 20;" + addEvents + "; ALTER SEQUENCE outbox_id_seq CACHE 1;" + addEvents},
		"steps of fifty":                       {on: "gaps", alter: "ALTER SEQUENCE outbox_id_seq INCREMENT 50;" + addEvents, want: "INCREMENT 50", repair: "ALTER SEQUENCE outbox_id_seq INCREMENT 1;" + addEvents},
		"a cycle":                              {alter: "ALTER SEQUENCE outbox_id_seq CYCLE;" + addEvents, want: "CYCLE true", repair: "ALTER SEQUENCE outbox_id_seq NO CYCLE"},
		"another sequence":                     {on: "gaps", alter: "CREATE SEQUENCE other START 100; ALTER TABLE outbox ALTER COLUMN id SET DEFAULT nextval('other');" + addEvents, want: "come from the sequence public.other now", repair: addEvents, stays: true},
		"no sequence":                          {alter: "ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT", want: "sequence"},
		"created anew":                         {alter: "CREATE TABLE new (LIKE outbox INCLUDING ALL); DROP TABLE outbox CASCADE; CREATE SEQUENCE outbox_id_seq; ALTER TABLE new ALTER COLUMN id SET DEFAULT nextval('outbox_id_seq'); ALTER TABLE new RENAME TO outbox;" + addEvents, want: "is another table than before", repair: addEvents, stays: true},
		"another one of its name":              {alter: "CREATE TABLE new (LIKE outbox INCLUDING ALL); ALTER TABLE outbox RENAME TO old; ALTER TABLE new RENAME TO outbox;" + addEvents, want: "is another table than before", stays: true},
		"gone for a moment":                    {alter: "ALTER TABLE outbox RENAME TO away", want: "has no table public.outbox", repair: "ALTER TABLE away RENAME TO outbox;" + addEvents},
		"another type":                         {alter: "ALTER TABLE outbox ALTER COLUMN payload TYPE json;" + addEvents, want: "payload has the type json", repair: "ALTER TABLE outbox ALTER COLUMN payload TYPE jsonb"},
		"nulls":                                {alter: "ALTER TABLE outbox ALTER COLUMN type DROP NOT NULL;" + addEvents, want: "type may be null", repair: "ALTER TABLE outbox ALTER COLUMN type SET NOT NULL"},
		"positions not unique":                 {alter: "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey;" + addEvents, want: "no unique index on id", repair: "ALTER TABLE outbox ADD PRIMARY KEY (id)"},
		"no transactions":                      {on: "transactions", alter: "ALTER TABLE outbox ALTER COLUMN txid DROP NOT NULL, ALTER COLUMN txid DROP DEFAULT;" + addEvents, want: "has not the default", repair: "UPDATE outbox SET txid = '3' WHERE txid IS NULL; ALTER TABLE outbox ALTER COLUMN txid SET DEFAULT pg_current_xact_id(), ALTER COLUMN txid SET NOT NULL", stays: true},
		"no transactions for a moment":         {on: "transactions", alter: "ALTER TABLE outbox ALTER COLUMN txid SET DEFAULT '3';" + addEvents + "; ALTER TABLE outbox ALTER COLUMN txid SET DEFAULT pg_current_xact_id()", want: "was removed and set again", stays: true},
		"events above the sequence":            {on: "gaps", alter: "INSERT INTO outbox (id, aggregate, number, type, payload) VALUES (9, 'a', 1, 'Happened', '{}')", want: "SELECT setval('public.outbox_id_seq', 9)", repair: "SELECT setval('outbox_id_seq', 9);" + addEvents},
		"another schema's table stands before": {alter: "CREATE SCHEMA before; CREATE TABLE before.outbox (LIKE public.outbox INCLUDING ALL); ALTER ROLE CURRENT_USER SET search_path = before, public; INSERT INTO public.outbox (aggregate, number, type, payload) VALUES ('a', 1, 'Happened', '{}'); ALTER ROLE CURRENT_USER RESET search_path"},
	} {
		for _, by := range []string{"gaps", "transactions"} {
			if c.on != "" && c.on != by {
				continue
			}
			t.Run(name+"/"+by, func(t *testing.T) {
				on := serialTable(t)
				if by == "transactions" {
					on = outboxTable(t, "")
				}
				exec(t, on.db, addEvents)
				r := newReader(t, on.source, earliest, segment.Root)
				given := len(r.all())
				read := func() error {
					for {
						page, err := on.source.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 2)
						if err != nil {
							return err
						}
						given += len(page.Events)
						r.coverage = page.After(r.coverage, nil)
						if !page.More && len(page.Events) == 0 {
							return nil
						}
					}
				}
				exec(t, on.db, c.alter, pgx.QueryExecModeSimpleProtocol)
				err := read()
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Fatalf("the error is %v, want %q", err, c.want)
				}
				if errors.Is(err, eventsource.ErrStale) {
					t.Errorf("%v: nothing has to be read again", err)
				}
				var changed *eventsource.ChangedError
				var invalid *eventsource.InvalidError
				if err != nil && !errors.As(err, &changed) && !errors.As(err, &invalid) {
					t.Errorf("%v is of type %[1]T", err)
				}
				if c.repair == "" && c.want != "" && !c.stays {
					return
				}
				if c.repair != "" {
					exec(t, on.db, c.repair, pgx.QueryExecModeSimpleProtocol)
				}
				err = read()
				if c.stays {
					if err == nil || !errors.As(err, &changed) {
						t.Fatalf("then it is %v, want it to say the same", err)
					}
					return
				}
				if err != nil {
					t.Fatalf("then it is %v", err)
				}
				if want := column[int64](t, on.db, "SELECT count(*) FROM public.outbox")[0]; c.given == 0 && given != int(want) || c.given != 0 && given != c.given {
					t.Errorf("%d events were given, want %d (there are %d)", given, c.given, want)
				}
			})
		}
	}
}

// A session may insert with a number that its sequence cached earlier. The number is lower than
// those of other sessions, and no open transaction holds the sequence's lock.
func TestNumbersOutOfACacheAreNotLost(t *testing.T) {
	on := serialTable(t)
	exec(t, on.db, insertEvent)
	r := newReader(t, on.source, earliest, segment.Root)
	given := len(r.all())
	session, err := pgx.ConnectConfig(t.Context(), on.db.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.WithoutCancel(t.Context()))
	exec(t, on.db, "ALTER SEQUENCE outbox_id_seq CACHE 50")
	exec(t, session, insertEvent)
	exec(t, on.db, insertEvent)
	read := func() (err error) {
		for range 5 {
			on.source.ProveAgain()
			var page eventsource.Page
			if page, err = on.source.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 100); err != nil {
				return err
			}
			given += len(page.Events)
			r.coverage = page.After(r.coverage, nil)
		}
		return nil
	}
	if err := read(); err == nil || !strings.Contains(err.Error(), "CACHE 50") {
		t.Errorf("got %v", err)
	}
	exec(t, session, insertEvent)
	exec(t, on.db, "ALTER SEQUENCE outbox_id_seq CACHE 1")
	exec(t, session, insertEvent)
	if err := read(); err != nil || given != 5 {
		t.Errorf("%d of 5 events, error %v", given, err)
	}
}

// alternating has one connection of a pool read, and then another.
type alternating struct {
	pool *pgxpool.Pool
	last uint32 // process of the connection that read last
}

// other keeps the connection that read last from being used until release, and has another one
// there.
func (a *alternating) other(t *testing.T) (release func()) {
	t.Helper()
	var held, spare *pgxpool.Conn
	for held == nil || spare == nil {
		c, err := a.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if held == nil && (a.last == 0 || c.Conn().PgConn().PID() == a.last) {
			held = c
		} else {
			spare = c
		}
	}
	a.last = spare.Conn().PgConn().PID()
	spare.Release() // what is released last is used first
	return held.Release
}

// rowSecurity is a role that policies hold for, its connections, and a source that reads by them.
func rowSecurity(t *testing.T, by string) (*subject, *alternating, *postgres.Source) {
	var on *subject
	table, source := "public.outbox", definition.Source{}
	switch by {
	case "gaps":
		on = serialTable(t)
		source = declared(unaltered(definition.PositionsInserted, ""))
	case "transactions":
		on = outboxTable(t, "")
		source = declared(outbox)
	default:
		on, table = ownTable(t), "sluice.event"
	}
	role := fmt.Sprintf("reader_%d", rand.Uint32())
	exec(t, on.db, "CREATE ROLE "+role)
	exec(t, on.db, fmt.Sprintf("GRANT USAGE ON SCHEMA public, sluice TO %s; GRANT SELECT ON ALL TABLES IN SCHEMA public, sluice TO %[1]s; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, sluice TO %[1]s", role), pgx.QueryExecModeSimpleProtocol)
	exec(t, on.db, "CREATE POLICY tenant ON "+table+" TO "+role+" USING (length("+map[bool]string{true: "stream_id", false: "aggregate"}[by == "own"]+") > 3)")
	config, err := pgxpool.ParseConfig(on.db.Config().ConnConfig.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["role"] = role
	config.MaxConns = 2
	db, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db.Close()
		for _, sql := range []string{"DROP OWNED BY " + role, "DROP ROLE " + role} {
			if _, err := on.db.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	return on, &alternating{pool: db}, postgres.Open(db, schema, source)
}

// What row level security hides for a while is not read past: neither by pages that follow closely,
// nor by those that do not, and not by plans that were made meanwhile.
func TestRowsThatAreHiddenForAWhileAreNotReadPast(t *testing.T) {
	for _, by := range []string{"gaps", "transactions", "own"} {
		for _, end := range []string{"off", "bypass"} {
			t.Run(by+"/"+end, func(t *testing.T) {
				on, readers, source := rowSecurity(t, by)
				db, table := on.db, on.copyTo.Sanitize()
				insert := on.insert + " VALUES ('a' || $1, 1, 'Happened', '{}'), ('aaaa' || $1, 1, 'Happened', '{}')"
				exec(t, db, insert, "1")
				r := newReader(t, source, earliest, segment.Root)
				given := 0
				read := func() error {
					for range 3 {
						page, err := source.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 100)
						if err != nil {
							return err
						}
						given += len(page.Events)
						r.coverage = page.After(r.coverage, nil)
					}
					return nil
				}
				if err := read(); err != nil {
					t.Fatal(err)
				}
				exec(t, db, "ALTER TABLE "+table+" ENABLE ROW LEVEL SECURITY")
				exec(t, db, insert, "2")
				// What a page does depends on how long the one before is ago, and on the plan that
				// its connection has.
				const atRest = 150 * time.Millisecond
				for _, pause := range []time.Duration{0, atRest, atRest} {
					time.Sleep(pause)
					release := readers.other(t)
					var invalid *eventsource.InvalidError
					if err := read(); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "row level security hides rows of "+strings.ReplaceAll(strings.ReplaceAll(table, `"`, ""), "outbox", "public.outbox")) {
						t.Errorf("after %v: %v", pause, err)
					}
					release()
				}
				exec(t, db, insert, "3")
				if end == "off" {
					exec(t, db, "ALTER TABLE "+table+" DISABLE ROW LEVEL SECURITY")
				} else {
					exec(t, db, "DO $$ BEGIN EXECUTE format('ALTER ROLE %I BYPASSRLS', (SELECT roles[1] FROM pg_policies WHERE policyname = 'tenant')); END $$")
				}
				for _, n := range []int{6, 8, 10} {
					time.Sleep(atRest)
					release := readers.other(t)
					if err := read(); err != nil || given != n {
						t.Errorf("%d of %d events, error %v", given, n, err)
					}
					release()
					exec(t, db, insert, fmt.Sprint(n))
				}
				exec(t, db, "DROP POLICY tenant ON "+table)
			})
		}
	}
}

// A sequence that is behind is named, with what sets it right, and nothing is said of other
// servers.
func TestASequenceThatIsBehindIsNamed(t *testing.T) {
	db := database(t)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	exec(t, db, "INSERT INTO outbox (id, aggregate, number, type) SELECT n, n, 1, 'Happened' FROM generate_series(1, 7) AS n") // as a restore of the rows alone
	mapping := unaltered(definition.PositionsInserted, "")
	err := postgres.CheckTable(t.Context(), db, mapping)
	if err == nil || !strings.Contains(err.Error(), "SELECT setval('public.outbox_id_seq', 7)") || strings.Contains(err.Error(), "rebase") {
		t.Errorf("got %v", err)
	}
	exec(t, db, "SELECT setval('public.outbox_id_seq', 7)")
	if err := postgres.CheckTable(t.Context(), db, mapping); err != nil {
		t.Error(err)
	}
}

// Readers get every event once while the table is altered in all ways that it may be, some of which
// keep it from being read for a while.
func TestReadersGetEveryEventWhileTheTableIsAltered(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(testing.TB) *subject{"by gaps": serialTable, "by transactions": func(t testing.TB) *subject { return outboxTable(t, "") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			on := make(t)
			var stop sync.Once
			ended, altering := context.WithCancel(t.Context())
			var altered sync.WaitGroup
			var times atomic.Int64
			altered.Go(func() { alterOften(ended, t, on, &times) })
			on.enough = func() bool { return times.Load() >= leastAlterations }
			defer altered.Wait()
			defer stop.Do(altering)
			on.waits = func(err error) bool {
				var invalid *eventsource.InvalidError
				return errors.As(err, &invalid)
			}
			on.unordered = true // numbers out of a cache
			on.written = func() { stop.Do(altering); altered.Wait() }
			readersGetEveryEvent(t, on)
		})
	}
}

// leastAlterations is how often a run has to alter the table, to say anything: in each way, and
// back.
const leastAlterations = 10

// alterOften alters the outbox again and again, counts the times, and leaves it as it was.
func alterOften(ctx context.Context, t *testing.T, on *subject, times *atomic.Int64) {
	conn, err := pgx.ConnectConfig(context.Background(), on.db.Config().ConnConfig)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	pairs := [][2]string{
		{"ALTER SEQUENCE outbox_id_seq CACHE 30", "ALTER SEQUENCE outbox_id_seq CACHE 1"},
		{"ALTER SEQUENCE outbox_id_seq CYCLE", "ALTER SEQUENCE outbox_id_seq NO CYCLE"},
		{"ALTER TABLE outbox ADD COLUMN sent boolean", "ALTER TABLE outbox DROP COLUMN sent"},
		{"ALTER TABLE outbox ALTER COLUMN type DROP NOT NULL", "ALTER TABLE outbox ALTER COLUMN type SET NOT NULL"},
		{"GRANT SELECT ON outbox TO public", "REVOKE SELECT ON outbox FROM public"},
	}
	for i := 0; ctx.Err() == nil; i++ {
		for _, sql := range pairs[i%len(pairs)] {
			for { // nobody is to wait for this for long
				_, err := conn.Exec(context.Background(), "SET lock_timeout = 300; "+sql, pgx.QueryExecModeSimpleProtocol)
				if err == nil {
					times.Add(1)
					break
				}
				if !strings.Contains(err.Error(), "55P03") && !isDeadlock(err) {
					t.Error(err)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	if n := times.Load(); n < leastAlterations {
		t.Errorf("it was altered %d times only: this run says nothing", n)
	}
}

// A partition that is attached with events that reading has passed is noticed; one without, and one
// that comes back, are read.
func TestAPartitionThatIsAttachedWithEventsThatWerePassed(t *testing.T) {
	on := partitionedOutbox(t, "RANGE", "FROM (1) TO (100)", "FROM (200) TO (300)")
	insert := "INSERT INTO %s (id, aggregate, number, type) VALUES (%d, 'a', 1, 'Happened')"
	add := func(table string, id int) { t.Helper(); exec(t, on.db, fmt.Sprintf(insert, table, id)) }
	add("outbox", 1)
	add("outbox", 201)
	r := newReader(t, on.source, earliest, segment.Root)
	if n := len(r.all()); n != 2 {
		t.Fatalf("%d events of 2", n)
	}
	exec(t, on.db, "CREATE TABLE outbox_3 PARTITION OF outbox FOR VALUES FROM (300) TO (400)")
	add("outbox", 300)
	exec(t, on.db, "ALTER TABLE outbox DETACH PARTITION outbox_0")
	add("outbox", 202)
	if n := len(r.all()); n != 2 {
		t.Fatalf("%d events of 2, after a partition was added and one detached", n)
	}
	exec(t, on.db, "ALTER TABLE outbox ATTACH PARTITION outbox_0 FOR VALUES FROM (1) TO (100)")
	add("outbox", 2)
	if n := len(r.all()); n != 1 {
		t.Fatalf("%d events of 1, after it was attached again", n)
	}
	exec(t, on.db, "CREATE TABLE outbox_4 (LIKE outbox INCLUDING ALL)")
	add("outbox_4", 150)
	r.all()
	exec(t, on.db, "ALTER TABLE outbox ATTACH PARTITION outbox_4 FOR VALUES FROM (100) TO (200)")
	var changed *eventsource.ChangedError
	if _, err := on.source.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 10); !errors.As(err, &changed) || !strings.Contains(err.Error(), "outbox_4 was attached to public.outbox with events from position 150") {
		t.Errorf("got %v", err)
	}
}
