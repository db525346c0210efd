package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// logged is what workers log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// says waits until something was logged.
func (l *logged) says(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		all := l.text.String()
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %q in the log:\n%s", text, all)
		}
	}
}

// declareAs does what an owner's operator does.
func (w *world) declareAs(owner tokenstore.Owner) error {
	w.t.Helper()
	var groups []tokenstore.Group
	for _, g := range w.spec.ProcessingGroups {
		groups = append(groups, tokenstore.Group{Name: g.Name, Segments: int(g.Segments), Sequencing: g.Sequencing.Policy().String()})
	}
	source := eventspostgres.Open(w.pool, postgres.DefaultSchema, w.spec.Source)
	err := w.store().Declare(context.Background(), owner, groups, nil, func(string) (progress.Progress, error) {
		return source.Start(context.Background(), progress.StartPosition{Type: progress.Earliest})
	})
	if err != nil {
		return err
	}
	live, err := json.Marshal(w.spec.Live(time.Now().UnixNano()))
	if err != nil {
		w.t.Fatal(err)
	}
	return postgres.NewDirectory(w.pool, postgres.DefaultSchema).DeclareProcessor(context.Background(), tokenstore.Processor{Name: owner.Processor,
		Definition: w.spec.Definition().ID(), Replicas: 1, Live: live, Installation: owner.Installation, TakeOverFrom: owner.TakeOverFrom})
}

// startAs runs a worker of an owner until the test's end.
func (w *world) startAs(owner tokenstore.Owner, pod string) *logged {
	w.t.Helper()
	target, err := access.FromURL(w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	log, def := &logged{}, w.spec.Definition()
	run := worker.New(worker.Options{Processor: owner.Processor, Installation: owner.Installation, Pod: pod, Definition: def, DefinitionID: def.ID(),
		Backend: backend.Postgres{Target: target, Schema: postgres.DefaultSchema}, Version: "test", Log: slog.New(slog.NewTextHandler(log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("worker %s: %v", pod, err)
		}
	})
	return log
}

const ownedBy = `SELECT bool_and(owner IN (SELECT incarnation FROM sluice.worker WHERE pod = $1)) FROM sluice.token`

// TestAGroupChangesItsOwnerByConsentOnly has workers of both owners run all the time.
func TestAGroupChangesItsOwnerByConsentOnly(t *testing.T) {
	former := tokenstore.Owner{Processor: processor, Installation: "one"}
	for name, next := range map[string]tokenstore.Owner{
		"another installation, same name": {Processor: processor, Installation: "two"},
		"another processor":               {Processor: "test/default/moved", Installation: "one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "\n  - name: view\n    segments: 4"+view)
			if err := w.declareAs(former); err != nil {
				t.Fatal(err)
			}
			formerLog, nextLog := w.startAs(former, "former"), w.startAs(next, "next")
			w.appendTo(10, 5)
			w.handled(50)
			stop := w.watch()
			var conflict *tokenstore.GroupConflictError
			if err := w.declareAs(next); !errors.As(err, &conflict) || !conflict.Owner.Is(former) {
				t.Fatalf("without consent: %v", err)
			}
			if next.Processor == processor {
				nextLog.says(t, `processor test/default/orders belongs to installation \"one\"`)
			}
			w.until("the former owner to have all segments", ownedBy, "former")

			consenting := next
			consenting.TakeOverFrom = []string{former.String()}
			w.appendTo(10, 5) // some of which the former owner is handling
			if err := w.declareAs(consenting); err != nil {
				t.Fatalf("with consent: %v", err)
			}
			w.until("the next owner to have all segments", ownedBy, "next")
			w.appendTo(10, 5)
			w.handled(150)
			stop()
			if n := w.folded(); n != 150 {
				t.Errorf("%d events in the view, want 150", n)
			}
			if next.Processor == processor {
				formerLog.says(t, `processor test/default/orders belongs to installation \"two\"`)
			}
			w.until("the next owner to have all segments", ownedBy, "next")
			if err := w.declareAs(former); !errors.As(err, &conflict) || !conflict.Owner.Is(next) {
				t.Errorf("the former owner declares: %v", err)
			}
		})
	}
}
