package eventfile_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/eventfile"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func TestALineThatIsNoEventNamesLineAndField(t *testing.T) {
	for text, want := range map[string]string{
		`{"type": "A"}`:                                            `line 2: field "stream" is missing`,
		`{"stream": "s"}`:                                          `line 2: field "type" is missing`,
		`{"stream": "s", "type": 1}`:                               `line 2: field "type" must be a string`,
		`{"stream": "s", "type": "A", "datum": {}}`:                `line 2: field "datum" is not known`,
		`{"stream": "s", "type": "A", "id": "x"}`:                  `line 2: field "id" is "x", which is no uuid`,
		"{\"stream\": \"s\", \"type\": \"\xc4\"}":                  `line 2: byte 26 is 0xC4, which is no UTF-8: write the file as UTF-8, for example with iconv`,
		"{\"stream\": \"s\", \"type\": \"A\", \"data\": \"\xc3\"}": `line 2: byte 39 is 0xC3`,
		"\ufeff" + `{"stream": "s", "type": "A"}`:                  `line 2: it is no JSON`,
		`{"stream": "s", "type": "A", "data": "\\\u0000"}`:         `line 2: it has \u0000`,
		`{"stream": "s\u0000", "type": "A"}`:                       `line 2: it has \u0000`,
		`[1]`:                                                      `line 2: it is a JSON array`,
		`{"stream": "s", "type": "A", "data": {`:                   `line 2: it is no JSON`,
		`{"stream": "s", "type": "A"} {"stream": "s"}}`:            `line 2: it is no JSON`,
	} {
		_, err := eventfile.Read(strings.NewReader("\n" + text + "\n"))
		var wrong *eventfile.LineError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestAFileMayBeMarkedAsUTF8(t *testing.T) {
	for name, text := range map[string]string{
		"before an event":      "\ufeff" + `{"stream": "ä", "type": "�"}` + "\n",
		"an escaped backslash": `{"stream": "ä", "type": "�", "data": "\\u0000"}`,
		"before an empty line": "\ufeff\r\n" + `{"stream": "ä", "type": "�"}`,
	} {
		events, err := eventfile.Read(strings.NewReader(text))
		if err != nil || len(events) != 1 || events[0].Stream != "ä" || events[0].Type != "�" {
			t.Errorf("%s: %v %v", name, events, err)
		}
	}
	_, err := eventfile.Read(strings.NewReader("\xff\xfe{\x00}\x00\n\x00"))
	if err == nil || err.Error() != "line 1: the file is UTF-16: write it as UTF-8, for example with iconv -f UTF-16 -t UTF-8" {
		t.Errorf("UTF-16: %v", err)
	}
}

// store is a database with an event table.
func store(t *testing.T) (*pgxpool.Pool, *eventspostgres.Log) {
	t.Helper()
	ctx := context.Background()
	target, err := access.FromURL(postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(postgres.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	err = pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		_, err := postgres.Migrate(ctx, c.Conn(), postgres.DefaultSchema)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := eventfile.Prepare(ctx, pool); err != nil {
		t.Fatal(err)
	}
	log := eventspostgres.NewLog(pool, postgres.DefaultSchema)
	t.Cleanup(func() { log.Close() })
	return pool, log
}

// follow follows a file and returns what it was told, and what ends it.
func follow(t *testing.T, pool *pgxpool.Pool, log *eventspostgres.Log, file string) (fed chan int, failed chan error, end func()) {
	fed, failed = make(chan int, 10), make(chan error, 10)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	f := &eventfile.Follower{Pool: pool, Log: log, File: file, Fed: func(n int) { fed <- n }, Failed: func(err error) { failed <- err }}
	go func() { f.Run(ctx); close(ended) }()
	end = func() { cancel(); <-ended }
	t.Cleanup(end)
	return fed, failed, end
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came for 20 s")
		panic("unreachable")
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func streams(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	rows, err := pool.Query(context.Background(), "SELECT stream_id FROM sluice.event ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func TestAFileIsFollowedAndFedOnce(t *testing.T) {
	pool, log := store(t)
	file := filepath.Join(t.TempDir(), "events.jsonl")
	one, two, three := `{"stream":"a","type":"T"}`+"\n", `{"stream":"b","type":"T"}`+"\n", `{"stream":"c","type":"T"}`
	write(t, file, one+two)
	fed, _, end := follow(t, pool, log, file)
	if n := receive(t, fed); n != 2 {
		t.Fatalf("fed %d events, want 2", n)
	}
	end()
	write(t, file, one+two+three) // its last line has no end
	fed, _, end = follow(t, pool, log, file)
	if n := receive(t, fed); n != 1 {
		t.Fatalf("after a restart fed %d events, want 1", n)
	}
	end()
	if got := streams(t, pool); got != "a b c" {
		t.Fatalf("streams %s", got)
	}
}

func TestAWrongLineWaitsUntilItIsCorrected(t *testing.T) {
	pool, log := store(t)
	file := filepath.Join(t.TempDir(), "events.jsonl")
	before, after := `{"stream":"a","type":"T"}`+"\n", "\n"+`{"stream":"c","type":"T"}`+"\n"
	write(t, file, before+`{"stream":"b","typ":"T"}`+after)
	fed, failed, end := follow(t, pool, log, file)
	receive(t, fed)
	if err := receive(t, failed); !strings.Contains(err.Error(), `line 2: field "typ"`) {
		t.Fatalf("told of %v", err)
	}
	write(t, file, before+`{"stream":"b","type":"T"}`+after)
	if n := receive(t, fed); n != 2 {
		t.Fatalf("fed %d events after the correction, want 2", n)
	}
	end()
	if got := streams(t, pool); got != "a b c" {
		t.Fatalf("streams %s", got)
	}
}
