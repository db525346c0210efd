package dev_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/runtime/dev"
	"github.com/sluice-project/sluice/runtime/handler"
)

const manifest = `
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:
  - name: totals
    segments: 2
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS totals (id text PRIMARY KEY, total numeric NOT NULL)
        statements:
        - eventTypes: [OrderPlaced]
          each: INSERT INTO totals SELECT stream_id, (data ->> 'total')::numeric FROM event
`

// screen is what dev writes, to be waited on.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// bench is a folder with a manifest and a file of events.
type bench struct {
	t       *testing.T
	dir     string
	out     *screen
	options dev.Options
	end     func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-dev-test-") // t.TempDir's cannot be entered by the server's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir}
	b.options = dev.Options{Manifest: filepath.Join(dir, "p.yaml"), Folder: filepath.Join(dir, ".sluice"), Version: "test"}
	b.save(manifest)
	return b
}

func (b *bench) save(text string) {
	b.t.Helper()
	if err := os.WriteFile(b.options.Manifest, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// feed appends lines to the file of events.
func (b *bench) feed(lines ...string) {
	b.t.Helper()
	b.options.Events = filepath.Join(b.dir, "events.jsonl")
	f, err := os.OpenFile(b.options.Events, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		b.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.t.Fatal(err)
	}
}

// start runs dev until stop or the test's end.
func (b *bench) start() {
	b.t.Helper()
	b.out = &screen{}
	o := b.options
	o.Out, o.Log = b.out, b.out
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- dev.Run(ctx, o) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("dev: %v", err)
			}
		case <-time.After(30 * time.Second):
			b.t.Error("dev does not end")
		}
	})
	b.t.Cleanup(b.end)
	b.shows("orders runs")
}

// shows waits until dev has written something.
func (b *bench) shows(text string) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(b.out.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not shown within 30 s: %s\n%s", text, b.out)
		}
	}
}

// totals waits until the view is as wanted.
func (b *bench) totals(want string) {
	b.t.Helper()
	url, err := dev.RunningURL(b.options.Folder)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(ctx)
	got := "not asked yet"
	for deadline := time.Now().Add(30 * time.Second); got != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the view is %q, want %q\n%s", got, want, b.out)
		}
		// The table comes with the setup.
		if err := conn.QueryRow(ctx, "SELECT coalesce(string_agg(id || '=' || total, ' ' ORDER BY id), '') FROM totals").Scan(&got); err != nil {
			got = err.Error()
		}
	}
}

func TestFromAFileOfEventsToRowsAndAfterARestart(t *testing.T) {
	b := newBench(t)
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`, `{"stream":"b","type":"Other"}`)
	b.start()
	b.totals("a=3")
	b.shows("1 event → position 1")
	b.feed(`{"stream":"c","type":"OrderPlaced","data":{"total":5}}`)
	b.totals("a=3 c=5")
	b.end()
	if _, err := dev.RunningURL(b.options.Folder); err == nil {
		t.Error("a URL is still there after the end")
	}

	b.feed(`{"stream":"d","type":"OrderPlaced","data":{"total":7}}`)
	b.start() // events that were fed before are not fed again, or the view's key would be violated
	b.totals("a=3 c=5 d=7")
	b.end()

	b.options.Reset, b.options.Events = true, ""
	b.start()
	b.totals("")
}

func TestAManifestIsReloadedOnSave(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`)
	b.start()
	b.totals("a=3")

	b.save(strings.Replace(manifest, "segments: 2", "segments: 0", 1))
	b.shows("spec.processingGroups[0].segments")
	b.feed(`{"stream":"b","type":"OrderPlaced","data":{"total":3}}`)
	b.totals("a=3 b=3") // by the last valid one

	b.save(strings.Replace(manifest, "segments: 2", "segments: 4", 1))
	b.shows("live settings are in effect")
	b.feed(`{"stream":"c","type":"OrderPlaced","data":{"total":3}}`)
	b.totals("a=3 b=3 c=3")

	doubled := strings.Replace(manifest, "::numeric FROM", "::numeric * 2 FROM", 1)
	b.save(doubled)
	b.shows("a new definition")
	b.feed(`{"stream":"d","type":"OrderPlaced","data":{"total":3}}`)
	b.totals("a=3 b=3 c=3 d=6")

	b.save(strings.Replace(doubled, "INSERT INTO totals", "INSERT INTO totalz", 1))
	b.shows("make the table in the handler's setup")
	b.save(doubled)
	b.feed(`{"stream":"e","type":"OrderPlaced","data":{"total":3}}`)
	b.totals("a=3 b=3 c=3 d=6 e=6")
}

func TestACorrectionAndItsReplayAreOneSave(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	resettable := strings.Replace(manifest, "        statements:", "        reset: TRUNCATE totals\n        statements:", 1)
	b.save(strings.Replace(resettable, "::numeric FROM", "::numeric * 2 FROM", 1) + "  replay: {id: first, groups: [totals]}\n") // nothing is there to be handled again
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`, `{"stream":"b","type":"OrderPlaced","data":{"total":4}}`)
	b.start()
	b.totals("a=6 b=8")
	b.save(resettable + "  replay: {id: fix, groups: [totals]}\n")
	b.totals("a=3 b=4")
	b.feed(`{"stream":"c","type":"OrderPlaced","data":{"total":5}}`)
	b.totals("a=3 b=4 c=5")
	b.save(resettable + "  replay: {id: fix, groups: [totals], context: {why: other}}\n")
	b.shows("cannot be changed under the same id")
	b.save(manifest + "  replay: {id: again, groups: [totals]}\n")
	b.shows("has no reset")
}

func TestWhatBecomesOfAReplayIsShown(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	resettable := strings.Replace(manifest, "        statements:", "        reset: TRUNCATE totals\n        statements:", 1)
	ledger := strings.Replace(resettable, "  - name: totals", "  - name: ledger\n    segments: 1\n    handler: {type: Go}\n  - name: totals", 1)
	b.options.Handlers = map[string]handler.Handler{"ledger": handler.Each(func(context.Context, pgx.Tx, handler.Event) error { return nil })}
	b.save(ledger + "  replay: {id: first, groups: [totals]}\n")
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`)
	b.start()
	b.totals("a=3")
	b.shows("replay first         has ended (Superseded)")
	b.save(ledger + "  replay: {id: second, groups: [totals]}\n")
	b.shows("replay second        is complete, in ")
	b.save(ledger + "  replay: {id: third, groups: [totals, ledger]}\n")
	b.shows("replay third         is refused: NoReset: ")
	b.save(ledger + "  replay: {id: second, groups: [totals]}\n")
	b.shows("replay second        has ended before (Complete) and does not run again: choose another id")
	b.save(strings.Replace(ledger, "TRUNCATE totals", "TRUNCATE nowhere", 1) + "  replay: {id: fourth, groups: [totals]}\n")
	b.shows("replay fourth        has failed: ResetFailed: ")
	b.end()
	b.start() // what has ended before is not shown once more
	b.shows("replay fourth        has ended before (Failed)")
	if strings.Contains(b.out.String(), "replay second") {
		t.Errorf("a replay of the run before is shown:\n%s", b.out)
	}
}

func TestTheWelcomeFitsTheProcessor(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = strings.Replace(postgrestest.New(t), "postgres@", "postgres:s3cret@", 1)
	if !strings.Contains(b.options.DatabaseURL, "s3cret") {
		t.Fatal("the URL has no user to give a password to")
	}
	b.start()
	b.shows(`sluice append stream-1 OrderPlaced '{"total": 12}'`)
	b.shows(`psql "$(cat ` + filepath.Join(b.options.Folder, "url") + `)"`)
	if url, err := dev.RunningURL(b.options.Folder); err != nil || url != b.options.DatabaseURL {
		t.Errorf("the URL is %s, %v", url, err)
	}
	b.totals("")
	conn, err := pgx.Connect(context.Background(), b.options.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), `CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate text NOT NULL, kind text NOT NULL, body jsonb NOT NULL, at timestamptz NOT NULL DEFAULT now())`)
	if err != nil {
		t.Fatal(err)
	}
	b.end()
	if strings.Contains(b.out.String(), "s3cret") {
		t.Errorf("the password is shown:\n%s", b.out)
	}
	b.save(strings.NewReplacer("name: orders", "name: orders", "  processingGroups:\n", `  source: {type: Table, table: {name: public.outbox, columns: {position: id, stream: aggregate, type: kind, recordedAt: at}, data: {column: body}}}
  processingGroups:
`, "name: totals", "name: of-outbox").Replace(manifest))
	b.start()
	b.shows("INSERT INTO public.outbox (aggregate, kind, body, ...) VALUES ('stream-1', 'OrderPlaced', '{\"total\": 12}', ...)")
	if strings.Contains(b.out.String(), "sluice append") {
		t.Errorf("appending is proposed, which nobody reads:\n%s", b.out)
	}
}

func TestWhatIsWaitedForIsNamed(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	began, release := make(chan struct{}, 1), make(chan struct{})
	b.options.Handlers = map[string]handler.Handler{"slow": handler.WithReset(
		handler.Each(func(_ context.Context, _ pgx.Tx, _ handler.Event) error { began <- struct{}{}; <-release; return nil }), func(context.Context, pgx.Tx, handler.Replay) error { return nil })}
	text, _, _ := strings.Cut(manifest, "      type: SQL")
	b.save(text + "      type: Go\n      go: {handler: slow}\n")
	b.feed(`{"stream":"a","type":"OrderPlaced"}`)
	b.start()
	ended := make(chan struct{})
	<-began
	go func() { b.end(); close(ended) }()
	b.shows("press Ctrl-C again to end at once")
	if !regexp.MustCompile(`waiting +for the handler slow, which has run for .* \(OrderPlaced at position 1 of stream a\); press`).MatchString(b.out.String()) {
		t.Error(b.out)
	}
	close(release)
	<-ended
}

func TestAllThatPostgreSQLSaysIsShown(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	b.options.Handlers = map[string]handler.Handler{"panics": handler.Each(func(context.Context, pgx.Tx, handler.Event) error { return errors.New(map[int]error{}[1].Error()) })}
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`, `{"stream":"a","type":"OrderPlaced","data":{"total":3}}`)
	b.start()
	b.shows(`statements[0] at position 2 (OrderPlaced of stream a): ERROR: duplicate key value violates unique constraint "totals_pkey" (SQLSTATE 23505)`)
	b.shows("detail: Key (id)=(a) already exists.")
	b.save(strings.Replace(manifest, "each: INSERT INTO totals SELECT stream_id", "each: |\n            INSERT INTO totals\n            SELECT strean_id", 1))
	b.shows("line 2: SELECT strean_id, (data ->> 'total')::numeric FROM event\n" + strings.Repeat(" ", 17) + "^")
	b.shows(`hint: Perhaps you meant to reference the column "event.stream_id".`)
	b.save(strings.Replace(manifest, "  - name: totals", "  - name: other\n    segments: 1\n    handler: {type: Go, go: {handler: panics}}\n  - name: totals", 1))
	b.shows("runtime/dev/dev_test.go:")
	if strings.Contains(b.out.String(), "runtime/handler/handler.go") {
		t.Errorf("the stack goes beyond the handler:\n%s", b.out)
	}
}

func TestASequencingChangesWithAReplayOnly(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	resettable := strings.Replace(manifest, "        statements:", "        reset: TRUNCATE totals\n        statements:", 1)
	sequential := strings.Replace(resettable, "segments: 2", "segments: 2\n    sequencing: {type: Sequential}", 1)
	b.save(resettable)
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":3}}`)
	b.start()
	b.totals("a=3")
	b.save(sequential)
	b.shows("group totals has handled its events by the sequencing Stream/pg1, and the spec asks for Sequential/pg1")
	b.feed(`{"stream":"b","type":"OrderPlaced","data":{"total":4}}`)
	b.totals("a=3 b=4") // by the last valid one
	b.save(strings.Replace(sequential, "::numeric FROM", "::numeric * 2 FROM", 1) + "  replay: {id: change, groups: [totals]}\n")
	b.totals("a=6 b=8")
	b.feed(`{"stream":"c","type":"OrderPlaced","data":{"total":5}}`)
	b.totals("a=6 b=8 c=10")
}

func TestAnEventThatFailsIsShownAndGoesOnAfterTheCorrection(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	b.feed(`{"stream":"a","type":"OrderPlaced","data":{"total":"x"}}`)
	b.start()
	b.shows("the event at position 1 fails")
	b.save(strings.Replace(manifest, "(data ->> 'total')::numeric", "0", 1))
	b.totals("a=0")
}

func TestWhatCannotRunSaysWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bench)
		want   string
	}{
		"no file":        {func(b *bench) { os.Remove(b.options.Manifest) }, "reading the manifest"},
		"an unknown key": {func(b *bench) { b.save(manifest + "    segmentz: 3\n") }, "segmentz"},
		"a Go handler": {func(b *bench) {
			text, _, _ := strings.Cut(manifest, "      type: SQL")
			b.save(text + "      type: Go\n")
		}, "go run . dev -f"},
		"reset of a database that was given": {func(b *bench) { b.options.Reset = true }, "--reset deletes only"},
		"a database that is down":            {func(b *bench) { b.options.DatabaseURL = "postgres://nobody@127.0.0.1:1/none" }, "connecting to the database"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.options.DatabaseURL = postgrestest.New(t)
			c.change(b)
			o := b.options
			o.Out, o.Log = &screen{}, &screen{}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := dev.Run(ctx, o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestOneDevAFolder(t *testing.T) {
	b := newBench(t)
	b.options.DatabaseURL = postgrestest.New(t)
	b.start()
	o := b.options
	o.Out, o.Log = &screen{}, &screen{}
	if err := dev.Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "another sluice dev") {
		t.Fatalf("got %v", err)
	}
	b.totals("") // the first one still is there
}

// TestAFolderKeepsItsProcessorFromOthers has two folders with the same manifest and one database.
func TestAFolderKeepsItsProcessorFromOthers(t *testing.T) {
	first, second := newBench(t), newBench(t)
	first.options.DatabaseURL = postgrestest.New(t)
	second.options.DatabaseURL = first.options.DatabaseURL
	first.start()
	first.end()
	o := second.options
	o.Out, o.Log = &screen{}, &screen{}
	err := dev.Run(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "another installation") {
		t.Fatalf("got %v", err)
	}
	first.start() // by the same id
	first.end()
	owner := regexp.MustCompile(`"(dev/default/orders@\w+)"`).FindStringSubmatch(err.Error())
	if owner == nil {
		t.Fatalf("no owner in: %v", err)
	}
	second.save(manifest + "  takeOverFrom: [" + owner[1] + "]\n")
	second.start()
}
