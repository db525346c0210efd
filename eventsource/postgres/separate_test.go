package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	program "os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// separated are tables as they are read if the tokens are in another database, by how it is known
// which events come late.
var separated = map[string]struct {
	table  *definition.Table
	append string // appends an event to the stream $1
	take   string // takes positions, and appends nothing
}{
	"own table": {nil, "INSERT INTO sluice.event (stream_id, version, type, data) SELECT $1, coalesce(max(version), 0) + 1, 'Happened', '{}' FROM sluice.event WHERE stream_id = $1", "SELECT nextval('sluice.event_position_seq') FROM generate_series(1, 60)"},
	"outbox":    {&outbox, "SELECT outbox_append($1, 1)", "SELECT nextval('outbox_id_seq') FROM generate_series(1, 60)"},
	"gaps":      {new(unaltered(definition.PositionsInserted, "")), "SELECT outbox_append($1, 1)", "SELECT nextval('outbox_id_seq') FROM generate_series(1, 60)"},
}

func declaredIn(table *definition.Table) definition.Source {
	if table == nil {
		return definition.Source{Type: definition.SourceStore}
	}
	return declared(*table)
}

// makeSeparate makes the tables in a database, and returns a source of them.
func makeSeparate(t *testing.T, url, name string) (*postgres.Separate, postgres.DB) {
	t.Helper()
	migrate(t, url, schema)
	db := pool(t, url)
	exec(t, db, createOutbox, pgx.QueryExecModeSimpleProtocol)
	if table := separated[name].table; table != nil && table.Columns.Transaction != "" {
		prepare(t, db, *table)
	}
	return openSeparate(t, db, name), db
}

func openSeparate(t *testing.T, db postgres.DB, name string) *postgres.Separate {
	t.Helper()
	source := postgres.OpenSeparate(db, schema, declaredIn(separated[name].table))
	if err := source.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return source
}

// forEachSeparate runs a test for each of the tables.
func forEachSeparate(t *testing.T, test func(t *testing.T, name string)) {
	t.Helper()
	for name := range separated {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, name) })
	}
}

// notReadFrom is why nothing is read on from a progress; nil where something is.
func notReadFrom(t *testing.T, source eventsource.Source, p progress.Progress) error {
	t.Helper()
	c, err := source.Parse(p)
	if err != nil {
		return err
	}
	_, err = source.Read(t.Context(), []eventsource.Coverage{c}, []segment.Segment{segment.Root}, 100)
	return err
}

// handled reads all that there is and returns what is stored then.
func handled(t *testing.T, source eventsource.Source, at progress.StartPosition) (int, progress.Progress) {
	t.Helper()
	r := newReader(t, source, at, segment.Root)
	n := len(r.all())
	return n, r.coverage.Progress()
}

func TestTokensOfAnotherDatabaseAreRefused(t *testing.T) {
	forEachSeparate(t, func(t *testing.T, name string) {
		source, db := makeSeparate(t, postgrestest.New(t), name)
		other, otherDB := makeSeparate(t, postgrestest.New(t), name)
		for _, db := range []postgres.DB{db, otherDB} {
			exec(t, db, separated[name].append, "s")
		}
		n, stored := handled(t, source, earliest)
		if n != 1 {
			t.Fatalf("%d events were read of 1", n)
		}
		var invalid *eventsource.InvalidError
		if err := notReadFrom(t, other, stored); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "the events come from the database with the OID") {
			t.Errorf("read in another database: %v", err)
		}
		if _, there := handled(t, other, earliest); true {
			if _, err := source.Union(stored, there); !errors.As(err, &invalid) {
				t.Errorf("united with progress in another database: %v", err)
			}
		}
		inStore := postgres.Open(db, schema, declaredIn(separated[name].table))
		if err := notReadFrom(t, inStore, stored); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "spec.source.postgres") {
			t.Errorf("read in the store's database: %v", err)
		}
		_, together := handled(t, inStore, earliest)
		if err := notReadFrom(t, source, together); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "progress in the store's database") {
			t.Errorf("progress of the store's database: %v", err)
		}
		if err := notReadFrom(t, source, stored); err != nil {
			t.Errorf("read in its own database: %v", err)
		}
	})
}

// ownServer starts a server that can be set back to what it was.
type ownServer struct {
	t      *testing.T
	server *localpostgres.Server
	backup string
}

func newOwnServer(t *testing.T) *ownServer {
	s := &ownServer{t: t, server: postgrestest.Start(t), backup: t.TempDir() + "/backup"}
	t.Cleanup(func() { s.server.Stop() }) // where another one took its place
	return s
}

// stopped does something with the files of the server while it is stopped.
func (s *ownServer) stopped(do ...string) {
	s.t.Helper()
	if err := s.server.Stop(); err != nil {
		s.t.Fatal(err)
	}
	if len(do) > 0 {
		if out, err := program.CommandContext(s.t.Context(), do[0], do[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %v\n%s", do, err, out)
		}
	}
	var err error
	if s.server, err = s.server.Restart(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *ownServer) backUp() { s.t.Helper(); s.stopped("cp", "-a", s.server.DataDir(), s.backup) }

func (s *ownServer) restore() {
	s.t.Helper()
	dir := s.server.DataDir()
	s.stopped("sh", "-c", fmt.Sprintf("rm -rf %q && cp -a %q %[1]q", dir, s.backup))
}

// What a group has handled is not there any more, and new events take its place.
func TestASourceThatWasSetBackIsNotReadOn(t *testing.T) {
	forEachSeparate(t, func(t *testing.T, name string) {
		s := newOwnServer(t)
		source, db := makeSeparate(t, s.server.URL("postgres"), name)
		exec(t, db, separated[name].append, "before")
		_, old := handled(t, source, earliest)
		s.backUp()
		db = pool(t, s.server.URL("postgres"))
		exec(t, db, separated[name].take)
		_, idle := handled(t, openSeparate(t, db, name), earliest) // has seen that positions were taken
		_, start := handled(t, openSeparate(t, db, name), latest)
		for i := range 3 {
			exec(t, db, separated[name].append, fmt.Sprint("lost-", i))
		}
		_, stored := handled(t, openSeparate(t, db, name), earliest)
		_, begun := handled(t, openSeparate(t, db, name), latest) // has been given nothing
		s.restore()
		db = pool(t, s.server.URL("postgres"))
		if err := notReadFrom(t, openSeparate(t, db, name), stored); err == nil {
			t.Error("reading goes on from events that are not there")
		}
		// So many that positions and transactions have gone beyond those that were lost.
		for i := range 80 {
			exec(t, db, separated[name].append, fmt.Sprint("new-", i))
		}
		source = openSeparate(t, db, name)
		for what, p := range map[string]progress.Progress{"has handled lost events": stored, "began at the newest one": begun} {
			var changed *eventsource.ChangedError
			if err := notReadFrom(t, source, p); !errors.As(err, &changed) || !strings.Contains(err.Error(), "was restored from a backup") {
				t.Errorf("a group that %s: %v", what, err)
			}
		}
		common, err := source.Intersect(stored, old)
		if err != nil {
			t.Fatal(err)
		}
		for what, p := range map[string]progress.Progress{"has handled none of the lost events": old, "has seen positions that were taken": idle, "began where positions were taken": start, "has what two have in common": common} {
			r := &reader{t: t, source: source, segments: []segment.Segment{segment.Root}}
			r.resume(p)
			if n := len(r.all()); n != 80 {
				t.Errorf("a group that %s gets %d events of 80", what, n)
			}
		}
	})
}

// A server that stops and starts again, or a failover that loses nothing, is no reason to stop.
func TestASourceIsReadOnAfterItsServerWasStartedAgain(t *testing.T) {
	forEachSeparate(t, func(t *testing.T, name string) {
		s := newOwnServer(t)
		source, db := makeSeparate(t, s.server.URL("postgres"), name)
		exec(t, db, separated[name].append, "s")
		r := newReader(t, source, earliest, segment.Root)
		r.all()
		stored := r.coverage.Progress()
		s.stopped()
		again := openSeparate(t, pool(t, s.server.URL("postgres")), name)
		exec(t, pool(t, s.server.URL("postgres")), separated[name].append, "s")
		if _, err := again.Read(t.Context(), []eventsource.Coverage{r.coverage}, nil, 100); !errors.Is(err, eventsource.ErrStale) {
			t.Errorf("a coverage from before the start: %v", err)
		}
		r.source = again
		r.resume(stored)
		if n := len(r.all()); n != 1 {
			t.Errorf("%d events are read of 1", n)
		}
	})
}

// Events may be deleted, the oldest ones first.
func TestASourceIsReadOnAfterItsOldestEventsWereDeleted(t *testing.T) {
	for name, from := range map[string]string{"own table": "sluice.event", "outbox": "outbox", "gaps": "outbox"} {
		t.Run(name, func(t *testing.T) {
			source, db := makeSeparate(t, postgrestest.New(t), name)
			for range 3 {
				exec(t, db, separated[name].append, "s")
			}
			_, stored := handled(t, source, earliest)
			exec(t, db, "DELETE FROM "+from)
			if err := notReadFrom(t, openSeparate(t, db, name), stored); err != nil {
				t.Errorf("all events are deleted: %v", err)
			}
			exec(t, db, separated[name].append, "another")
			r := &reader{t: t, source: openSeparate(t, db, name), segments: []segment.Segment{segment.Root}}
			r.resume(stored)
			if n := len(r.all()); n != 1 {
				t.Errorf("%d events are read of 1", n)
			}
		})
	}
}

// Nobody can tell whether the newest event was deleted or lost, if nobody notes what is deleted.
func TestASourceIsNotReadOnWithoutTheNewestEventThatWasHandled(t *testing.T) {
	for name, one := range map[string]string{"own table": "DELETE FROM sluice.event WHERE position = (SELECT max(position) FROM sluice.event)",
		"outbox": "DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox)", "gaps": "DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox)"} {
		t.Run(name, func(t *testing.T) {
			source, db := makeSeparate(t, postgrestest.New(t), name)
			for range 3 {
				exec(t, db, separated[name].append, "s")
			}
			_, stored := handled(t, source, earliest)
			exec(t, db, one)
			_, changed := errors.AsType[*eventsource.ChangedError](notReadFrom(t, openSeparate(t, db, name), stored))
			if noted := separated[name].table == nil; changed == noted {
				t.Errorf("the newest event is gone, and the source has changed: %v", changed)
			}
		})
	}
}

// What a crash of the server would undo is not given out: the store would not forget it.
func TestWhatIsNotOnTheDiskIsNotGivenOut(t *testing.T) {
	forEachSeparate(t, func(t *testing.T, name string) {
		s := newOwnServer(t)
		source, db := makeSeparate(t, s.server.URL("postgres"), name)
		exec(t, db, "CHECKPOINT")
		var writer int
		if err := db.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").Scan(&writer); err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(writer)
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { process.Signal(syscall.SIGCONT) })
		unsynced := session(t, s.server.URL("postgres"), "unsynced")
		exec(t, unsynced, "SET synchronous_commit = off")
		exec(t, unsynced, separated[name].append, "s")

		c, err := source.Parse(progress.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if page, err := source.Read(ctx, []eventsource.Coverage{c}, nil, 100); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d events that are not on the disk were given out, error %v", len(page.Events), err)
		}
		if p, err := source.Start(ctx, latest); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a group began behind events that are not on the disk: %v, error %v", p, err)
		}
		if err := process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		exec(t, db, separated[name].append, "t") // syncs what was written before
		if n, _ := handled(t, source, earliest); n != 2 {
			t.Errorf("%d events are read of 2", n)
		}
	})
}

// What an open transaction has written is not synced before it ends, unless somebody asks for it.
func TestAnOpenTransactionKeepsNobodyWaitingForTheDisk(t *testing.T) {
	s := newOwnServer(t)
	source, db := makeSeparate(t, s.server.URL("postgres"), "own table")
	exec(t, db, "CREATE TABLE other (n integer)")
	exec(t, db, separated["own table"].append, "s")
	open := session(t, s.server.URL("postgres"), "open")
	exec(t, open, "BEGIN")
	exec(t, open, "INSERT INTO other VALUES (1)")
	c, err := source.Parse(progress.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if page, err := source.Read(ctx, []eventsource.Coverage{c}, nil, 10); err != nil || len(page.Events) != 1 {
		t.Errorf("%d events of 1 are read (%v)", len(page.Events), err)
	}
}

func TestErrorsOfASeparateSourceNameItsDatabase(t *testing.T) {
	s := postgrestest.Start(t)
	source, _ := makeSeparate(t, s.URL("postgres"), "own table")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	c, err := source.Parse(progress.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	const want = "the database of spec.source: "
	_, err = source.Read(t.Context(), []eventsource.Coverage{c}, nil, 100)
	if err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, eventsource.ErrStale) {
		t.Errorf("a read: %v", err)
	}
	if err := source.Check(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a check: %v", err)
	}
	if _, err := source.Start(t.Context(), latest); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a start: %v", err)
	}
	if _, err := source.Head(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a head: %v", err)
	}
}

func TestEndOfRecord(t *testing.T) {
	for place, want := range map[int64]int64{8192 * 7: 8192 * 7, 8192*7 + 24: 8192 * 7, 8192*2048 + 40: 8192 * 2048, 8192*7 + 40: 8192*7 + 40, 8192*7 + 32: 8192*7 + 32, 8192*7 + 160: 8192*7 + 160} {
		if got := postgres.EndOfRecord(place); got != want {
			t.Errorf("the record before %d ends at %d, want %d", place, got, want)
		}
	}
}

// A role that may read the table of events, and its sequence, is enough.
func TestARoleThatMayOnlyReadIsEnough(t *testing.T) {
	for name, grants := range map[string]string{
		"own table": "GRANT USAGE ON SCHEMA sluice TO %[1]s; GRANT SELECT ON sluice.event, sluice.event_deleted, sluice.event_position_seq, sluice.meta TO %[1]s",
		"outbox":    "GRANT SELECT ON outbox TO %[1]s",
		"gaps":      "GRANT SELECT ON outbox, outbox_id_seq TO %[1]s",
	} {
		t.Run(name, func(t *testing.T) {
			url := postgrestest.New(t)
			_, db := makeSeparate(t, url, name)
			role := "reader_" + strings.ReplaceAll(name, " ", "_")
			exec(t, db, fmt.Sprintf("CREATE ROLE %s LOGIN; "+grants, role), pgx.QueryExecModeSimpleProtocol)
			exec(t, db, separated[name].append, "s")
			reading := openSeparate(t, pool(t, strings.Replace(url, "postgres://postgres@", "postgres://"+role+"@", 1)), name)
			n, stored := handled(t, reading, earliest)
			if n != 1 {
				t.Errorf("%d events are read of 1", n)
			}
			if err := notReadFrom(t, reading, stored); err != nil {
				t.Errorf("reading on: %v", err)
			}
			if _, err := reading.Start(t.Context(), latest); err != nil {
				t.Errorf("beginning at the newest event: %v", err)
			}
			if _, _, err := reading.Waiting(t.Context(), 0); err != nil {
				t.Errorf("looking for what waits: %v", err)
			}
			if _, _, err := reading.OpenWriters(t.Context()); err != nil {
				t.Errorf("looking for open writers: %v", err)
			}
		})
	}
}
