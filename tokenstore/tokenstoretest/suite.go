// Package tokenstoretest is the conformance suite of token stores: what every store promises, tested from the outside. Each
// store runs all of it, against its real parts.
package tokenstoretest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Store is what a token store consists of.
type Store interface {
	tokenstore.Store
	tokenstore.Replays
	tokenstore.Resets
	tokenstore.Commits
}

// Directory is what a directory consists of.
type Directory interface {
	tokenstore.Directory
	tokenstore.Elector
	tokenstore.Evictor
	tokenstore.Waker
	tokenstore.LiveNotifier
	tokenstore.Prober
}

// Harness is a store under test: a new, empty one.
type Harness struct {
	Store     Store
	Directory Directory
	// Membership has session locks. Its members are PeerWatchers and Limiters.
	Membership tokenstore.Membership
	// OpenTransactions has batches commit by Commits.InTx, not by Commits.Pipeline.
	OpenTransactions bool
	// Queue adds statements that write rows of a projection.
	Queue func(s tokenstore.Statements, rows map[string]string) error
	// Write writes rows of a projection in a transaction of the store.
	Write func(ctx context.Context, tx tokenstore.Tx, rows map[string]string) error
	// Rows returns the projection.
	Rows func(ctx context.Context) (map[string]string, error)
	// Elapse has so much time pass by the database's clock.
	Elapse func(ctx context.Context, d time.Duration) error
}

// Commit moves tokens and writes rows of a projection in one transaction: all of it in one message,
// or with a transaction that is open.
func (h Harness) Commit(ctx context.Context, advances []tokenstore.Advance, rows map[string]string) error {
	if h.OpenTransactions {
		return h.Store.InTx(ctx, advances, func(tx tokenstore.Tx) error { return h.Write(ctx, tx, rows) })
	}
	return h.Store.Pipeline(ctx, advances, func(s tokenstore.Statements) error { return h.Queue(s, rows) })
}

// Reset makes a try of a reset, whose handlers write rows and then return fail.
func (h Harness) Reset(ctx context.Context, processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, rows map[string]string, fail error) error {
	try, err := h.Store.TryReset(ctx)
	if err != nil {
		return err
	}
	defer try.Close(ctx)
	return try.Run(ctx, processor, r, n, start, tokenstore.ResetRun{Limit: time.Minute, Handlers: func(ctx context.Context, tx tokenstore.Tx) error {
		if err := h.Write(ctx, tx, rows); err != nil {
			return err
		}
		return fail
	}})
}

// Line is an algebra in which a progress is a position.
type Line struct{}

var _ progress.Algebra = Line{}

// Union implements progress.Algebra.
func (Line) Union(a, b progress.Progress) (progress.Progress, error) {
	return At(max(a.Position, b.Position)), nil
}

// Intersect implements progress.Algebra.
func (Line) Intersect(a, b progress.Progress) (progress.Progress, error) {
	return At(min(a.Position, b.Position)), nil
}

// Contains implements progress.Algebra.
func (Line) Contains(a, b progress.Progress) (bool, error) { return a.Position >= b.Position, nil }

// Distance implements progress.Algebra.
func (Line) Distance(from, to progress.Progress) (int64, error) {
	return max(to.Position-from.Position, 0), nil
}

// At is the progress of a position.
func At(position int64) progress.Progress {
	if position == 0 {
		return progress.Progress{}
	}
	return progress.Progress{Position: position, State: "line"}
}

// Run runs the suite.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, part := range []map[string]func(*world){groups, owners, sequencings, claims, fence, shapes, replays, resets, workers, plans, members} {
		for name, test := range part {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(&world{t, t.Context(), open(t)})
			})
		}
	}
}

const (
	processor = "test/default/payments"
	view      = "view"
)

// world is a store in a test. Its methods end the test where the store fails in what is not the test's subject.
type world struct {
	*testing.T
	ctx context.Context
	Harness
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// declare gives the processor the group view with so many segments, from the start.
func (w *world) declare(segments int, requested ...tokenstore.ReplayRequest) {
	w.Helper()
	w.must(w.Store.Declare(w.ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: view, Segments: segments}}, requested, from(0)))
}

// processor makes the directory know the processor with the definition d1.
func (w *world) processor() {
	w.Helper()
	w.define("d1")
}

func (w *world) define(definition string) {
	w.Helper()
	w.must(w.Directory.DeclareProcessor(w.ctx, tokenstore.Processor{Name: processor, Definition: definition, Replicas: 1, Live: []byte(`{}`)}))
}

func from(position int64) func(string) (progress.Progress, error) {
	return func(string) (progress.Progress, error) { return At(position), nil }
}

func (w *world) tokens() []tokenstore.Token {
	w.Helper()
	all, err := w.Store.Tokens(w.ctx, processor)
	w.must(err)
	return all
}

// claim claims tokens as they are, for a worker.
func (w *world) claim(worker int64, tokens ...tokenstore.Token) []tokenstore.Token {
	w.Helper()
	got, err := w.Store.Claim(w.ctx, processor, worker, 1, claimsOf(tokens))
	w.must(err)
	return got
}

// owned claims all tokens for worker 1.
func (w *world) owned() []tokenstore.Token {
	w.Helper()
	all := w.tokens()
	got := w.claim(1, all...)
	if len(got) != len(all) {
		w.Fatalf("claimed %d of %d tokens", len(got), len(all))
	}
	return got
}

func claimsOf(tokens []tokenstore.Token) []tokenstore.Claim {
	var claims []tokenstore.Claim
	for _, t := range tokens {
		claims = append(claims, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch, Sequencing: t.Sequencing})
	}
	return claims
}

// to is the move of a token to a position.
func to(t tokenstore.Token, position int64) tokenstore.Advance {
	return tokenstore.Advance{Key: t.Key, Epoch: t.Epoch, Version: t.Version, WasParted: len(t.Parts) > 1,
		Parts: []progress.Part{{Segment: t.Range(), Progress: At(position)}}}
}

func released(a tokenstore.Advance) tokenstore.Advance {
	a.Release = true
	return a
}

// same compares what is with what should be.
func (w *world) same(what string, want, got any) {
	w.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("%s: -want +got\n%s", what, diff)
	}
}

// short writes tokens as "segment/mask at parts, generation, epoch, version, owner".
func short(tokens ...tokenstore.Token) []string {
	all := []string{}
	for _, t := range tokens {
		s := fmt.Sprintf("%s at", t.Range())
		for _, p := range t.Parts {
			s += fmt.Sprintf(" %s:%d", p.Segment, p.Progress.Position)
		}
		all = append(all, fmt.Sprintf("%s, generation %d, epoch %d, version %d, owner %d", s, t.Generation, t.Epoch, t.Version, t.Owner))
	}
	return all
}

// layout returns the segments of the group view.
func (w *world) layout() []segment.Segment {
	w.Helper()
	var all []segment.Segment
	for _, t := range w.tokens() {
		all = append(all, t.Range())
	}
	return all
}

// row returns one row of the projection.
func (w *world) row(key string) string {
	w.Helper()
	rows, err := w.Rows(w.ctx)
	w.must(err)
	return rows[key]
}

// together calls a function so many times at once, and returns what the calls returned.
func together(n int, call func(i int) error) []error {
	errs := make([]error, n)
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-begin
			errs[i] = call(i)
		})
	}
	ready.Wait()
	close(begin)
	done.Wait()
	return errs
}
