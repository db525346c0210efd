package tokenstoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
)

// Lockstep carries random sequences of operations out on a store and on the one in memory, and asks after each that both have
// answered the same and are in the same state. Two workers and what they believe, rightly or not, are part of it.
func Lockstep(t *testing.T, store Harness) {
	var runs atomic.Int64
	counted := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		run := runs.Add(1)
		m := &lockstep{t: t, ctx: context.Background(), store: store, model: Memory(), run: run, counted: counted,
			processor: fmt.Sprintf("test/default/lockstep-%d", run), group: fmt.Sprintf("view-%d", run)}
		m.ids = []string{"x", "y"}
		m.declare(t)
		m.define(t)
		t.Repeat(map[string]func(*rapid.T){
			"declare": m.declare, "take over": m.takeOver, "claim": m.claim, "claim more": m.claim, "commit": m.commit, "commit more": m.commit, "fail": m.fail, "mark": m.mark,
			"split": m.split, "merge": m.merge, "towards": m.towards, "define": m.define, "request": m.request, "begin": m.begin, "reset": m.reset,
			"end reset": m.endReset, "complete": m.complete, "abandon": m.abandon, "drop": m.drop, "register": m.register, "beat": m.heartbeat,
			"state": m.state, "elapse": m.elapse, "assign": m.assign, "adopt": m.adopt, "replay": m.replayed, "apart": m.apart, "": m.compare,
		})
	})
	t.Logf("%v", counted)
	for _, what := range []string{"commit", "complete", "fenced commit", "claim", "split", "merge", "unequal merge", "reset", "abandon", "beat", "adopt", "takeover"} {
		if counted[what] == 0 {
			t.Errorf("no run did anything of: %s", what)
		}
	}
}

type lockstep struct {
	t            *rapid.T
	ctx          context.Context
	store, model Harness
	run          int64
	processor    string
	group        string
	believed     []tokenstore.Token // by workers, claimed at some time
	ids          []string           // of replays, the last two
	requested    []tokenstore.ReplayRequest
	row          int
	counted      map[string]int
}

// both carries an operation out on both, and returns what the model answered.
func both[T any](m *lockstep, t *rapid.T, what string, operation func(Harness) (T, error)) (T, error) {
	got, err := operation(m.store)
	want, wantErr := operation(m.model)
	if diff := cmp.Diff(want, got, sameTimes, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s: -model +store\n%s", what, diff)
	}
	if kindOf(err) != kindOf(wantErr) {
		t.Fatalf("%s: the model says %v, the store %v", what, wantErr, err)
	}
	if err == nil {
		m.counted[what]++
	}
	return want, wantErr
}

// step is both for operations that answer nothing but whether they are done; it reports that.
func (m *lockstep) step(t *rapid.T, what string, operation func(Harness) error) bool {
	_, err := both(m, t, what, func(h Harness) (struct{}, error) { return struct{}{}, operation(h) })
	return err == nil
}

// sameTimes leaves out what depends on when, or on what other runs have done.
var sameTimes = cmp.FilterPath(func(p cmp.Path) bool {
	switch p.Last().String() {
	case ".RequestedAt", ".ResetAt", ".EndedAt", ".FailedAt", ".RetryAt", ".Since", ".StartedAt", ".PlanAge", ".Number", ".Planned", ".LeavingFor", ".Message":
		return true
	}
	return false
}, cmp.Ignore())

func kindOf(err error) string {
	var wait *tokenstore.NotDueError
	var conflict *tokenstore.GroupConflictError
	var changed *tokenstore.SequencingChangedError
	var refused *tokenstore.InstallationError
	for _, known := range []error{tokenstore.ErrFenced, tokenstore.ErrLayoutChanged, tokenstore.ErrPlanOutdated, tokenstore.ErrWorkerEnded, tokenstore.ErrNoProcessor, errHandler} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	switch {
	case err == nil:
		return "no error"
	case errors.As(err, &wait):
		return "not due: " + wait.Reason
	case errors.As(err, &conflict):
		return "conflict with " + conflict.Owner.String()
	case errors.As(err, &changed):
		return changed.Error()
	case errors.As(err, &refused):
		return "not let in: " + refused.Error()
	}
	return "another error"
}

var errHandler = errors.New("the reset handler fails")

// compare asks both for all that they know.
func (m *lockstep) compare(t *rapid.T) {
	type known struct {
		Tokens    []tokenstore.Token
		Groups    []tokenstore.Group
		Failures  []tokenstore.Failure
		Replays   []tokenstore.Replay
		Replaying map[string]*tokenstore.Replaying
		View      tokenstore.View
	}
	_, err := both(m, t, "all", func(h Harness) (k known, err error) {
		var errs [6]error
		k.Tokens, errs[0] = h.Store.Tokens(m.ctx, m.processor)
		k.Groups, errs[1] = h.Store.Groups(m.ctx, m.processor)
		k.Failures, errs[2] = h.Store.Attempts(m.ctx, m.processor)
		k.Replays, errs[3] = h.Store.Replays(m.ctx, m.processor)
		k.Replaying, errs[4] = h.Store.Replaying(m.ctx, m.processor)
		k.View, errs[5] = h.Directory.View(m.ctx, m.processor)
		var layout []segment.Segment
		for _, t := range k.Tokens {
			layout = append(layout, t.Range())
		}
		if err := errors.Join(errs[:]...); err != nil || len(layout) == 0 {
			return k, err
		}
		return k, segment.Partition(layout)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *lockstep) tokens() []tokenstore.Token {
	all, err := m.model.Store.Tokens(m.ctx, m.processor)
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

// owner is the processor mostly, and sometimes another one, as one of several installations, which
// may have consent.
func (m *lockstep) owner(t *rapid.T) tokenstore.Owner {
	o := tokenstore.Owner{Processor: m.processor, Installation: m.installation(t)}
	if rapid.IntRange(0, 5).Draw(t, "other processor") == 0 {
		o.Processor = rapid.SampledFrom([]string{"renamed" + m.processor[len("test"):], m.processor + "-other"}).Draw(t, "processor")
	}
	if rapid.IntRange(0, 3).Draw(t, "consents") == 0 {
		from := tokenstore.Owner{Processor: m.processor, Installation: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "from")}
		o.TakeOverFrom = []string{from.String(), m.processor + "-other@a", "renamed" + m.processor[len("test"):] + "@b"}
	}
	return o
}

// installation is the same mostly, since else most of a run would be refusals.
func (m *lockstep) installation(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "a", "a", "a", "a", "", "b"}).Draw(t, "installation")
}

func (m *lockstep) declare(t *rapid.T) { m.declareAs(t, m.owner(t)) }

// takeOver has another processor take the group by consent, and mostly this one take it back.
func (m *lockstep) takeOver(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		return
	}
	other := m.processor + "-other"
	consent := func(processor string) (owners []string) {
		for _, installation := range []string{"", "a", "b"} {
			owners = append(owners, tokenstore.Owner{Processor: processor, Installation: installation}.String())
		}
		return owners
	}
	m.declareAs(t, tokenstore.Owner{Processor: other, Installation: "a", TakeOverFrom: consent(m.processor)})
	if rapid.IntRange(0, 3).Draw(t, "back") > 0 {
		m.declareAs(t, tokenstore.Owner{Processor: m.processor, Installation: "a", TakeOverFrom: consent(other)})
	}
}

func (m *lockstep) declareAs(t *rapid.T, owner tokenstore.Owner) {
	g := tokenstore.Group{Name: m.group, Segments: rapid.IntRange(1, 6).Draw(t, "segments"), Sequencing: anySequencing(t)}
	before := len(m.tokens())
	declared := m.step(t, "declare", func(h Harness) error {
		return h.Store.Declare(m.ctx, owner, []tokenstore.Group{g}, m.requested, from(3))
	})
	if declared && before > 0 && owner.Processor != m.processor {
		m.counted["takeover"]++
	}
}

func (m *lockstep) drop(t *rapid.T) {
	if owner := m.owner(t); rapid.IntRange(0, 3).Draw(t, "rarely") == 0 {
		m.step(t, "drop", func(h Harness) error { return h.Store.Drop(m.ctx, owner) })
	}
}

// claim claims some segments, a few of them by an epoch that is not theirs.
func (m *lockstep) claim(t *rapid.T) {
	worker := rapid.Int64Range(1, 3).Draw(t, "worker")
	var claims []tokenstore.Claim
	for _, token := range m.tokens() {
		if rapid.Bool().Draw(t, "wanted") {
			claims = append(claims, tokenstore.Claim{Key: token.Key, Sequencing: anySequencing(t), Epoch: token.Epoch - rapid.SampledFrom([]int64{0, 0, 0, 1, -1}).Draw(t, "late")})
		}
	}
	definition := rapid.Int64Range(1, 3).Draw(t, "definition")
	got, _ := both(m, t, "claim", func(h Harness) ([]tokenstore.Token, error) {
		return h.Store.Claim(m.ctx, m.processor, m.incarnation(worker), definition, claims)
	})
	m.believed = append(m.believed, got...)
}

func (m *lockstep) incarnation(worker int64) int64 { return m.run*1000 + worker }

// commit moves one or two tokens as somebody believes them to be, who may be wrong.
func (m *lockstep) commit(t *rapid.T) {
	if len(m.believed) == 0 {
		return
	}
	var advances []tokenstore.Advance
	var moved []int
	for range rapid.IntRange(1, 2).Draw(t, "tokens") {
		i := rapid.IntRange(0, len(m.believed)-1).Draw(t, "believed")
		token := m.believed[i]
		if slices.ContainsFunc(advances, func(a tokenstore.Advance) bool { return a.Key == token.Key }) {
			continue
		}
		a := tokenstore.Advance{Key: token.Key, Epoch: token.Epoch, Version: token.Version, WasParted: len(token.Parts) > 1, Release: rapid.Bool().Draw(t, "release"), Recovers: rapid.Bool().Draw(t, "recovers")}
		if rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
			a.Epoch += rapid.Int64Range(-1, 1).Draw(t, "epoch")
			a.Version += rapid.Int64Range(-1, 1).Draw(t, "version")
			if m.isOther(token, a.Epoch, a.Version) { // nobody who knows both takes it for the one that it was
				a.Epoch, a.Version = token.Epoch, token.Version
			}
		}
		to := token.Parts[0].Progress.Position + rapid.Int64Range(0, 5).Draw(t, "further")
		met := true
		for _, p := range token.Parts {
			a.Parts = append(a.Parts, progress.Part{Segment: p.Segment, Progress: At(max(p.Progress.Position, to))})
			met = met && a.Parts[0].Progress == a.Parts[len(a.Parts)-1].Progress
		}
		if met {
			a.Parts = []progress.Part{{Segment: token.Range(), Progress: a.Parts[0].Progress}}
		}
		advances, moved = append(advances, a), append(moved, i)
	}
	m.row++
	rows := map[string]string{fmt.Sprintf("%d/%d", m.run, m.row): "written"}
	if !m.step(t, "commit", func(h Harness) error { return h.Commit(m.ctx, advances, rows) }) {
		m.counted["fenced commit"]++
		return
	}
	for i, a := range advances {
		m.believed[moved[i]].Parts = a.Parts
		if rapid.IntRange(0, 4).Draw(t, "heard") > 0 { // else the answer was lost
			m.believed[moved[i]].Version++
		}
	}
}

// isOther reports whether a token with that epoch and version has another range by now than is believed: it was split or merged.
func (m *lockstep) isOther(believed tokenstore.Token, epoch, version int64) bool {
	return slices.ContainsFunc(m.tokens(), func(t tokenstore.Token) bool {
		return t.Key == believed.Key && t.Epoch == epoch && t.Version == version && t.Range() != believed.Range()
	})
}

func (m *lockstep) fail(t *rapid.T) {
	if len(m.believed) == 0 {
		return
	}
	token := rapid.SampledFrom(m.believed).Draw(t, "believed")
	f := tokenstore.Failure{Key: token.Key, Position: rapid.Int64Range(1, 2).Draw(t, "position"), Attempts: rapid.IntRange(1, 2).Draw(t, "attempts"), Message: "m",
		Tried: rapid.SliceOfN(rapid.Int64Range(1, 3), 0, 2).Draw(t, "tried")}
	m.step(t, "fail", func(h Harness) error {
		return h.Store.Fail(m.ctx, token.Epoch, token.Version, f, time.Second)
	})
}

func (m *lockstep) mark(t *rapid.T) {
	if len(m.believed) == 0 {
		return
	}
	token := rapid.SampledFrom(m.believed).Draw(t, "believed")
	position := rapid.Int64Range(1, 2).Draw(t, "position")
	f := tokenstore.Failure{Key: token.Key, Position: position, Last: position + rapid.Int64Range(0, 1).Draw(t, "more"),
		Calling: rapid.Bool().Draw(t, "calling"), Type: "T", Stream: "s"}
	m.step(t, "mark", func(h Harness) error { return h.Store.Mark(m.ctx, token.Epoch, token.Version, f) })
}

// anySequencing is the default one mostly.
func anySequencing(t *rapid.T) string {
	return rapid.SampledFrom([]string{"Stream/pg1", "Stream/pg1", "Stream/pg1", "Stream/java"}).Draw(t, "sequencing")
}

func anySegment(t *rapid.T) segment.Segment {
	mask := uint32(1)<<rapid.IntRange(0, 3).Draw(t, "depth") - 1
	return segment.Segment{ID: rapid.Uint32Range(0, mask).Draw(t, "id"), Mask: mask}
}

func (m *lockstep) split(t *rapid.T) {
	s := anySegment(t)
	m.step(t, "split", func(h Harness) error { return h.Store.Split(m.ctx, m.group, s) })
}

func (m *lockstep) merge(t *rapid.T) {
	m.join(t, anySegment(t))
}

func (m *lockstep) join(t *rapid.T, s segment.Segment) {
	if m.step(t, "merge", func(h Harness) error { return h.Store.Merge(m.ctx, m.group, s) }) {
		for _, token := range m.tokens() {
			if token.Range() == s.Parent() && len(token.Parts) > 1 {
				m.counted["unequal merge"]++
			}
		}
	}
}

// towards does a few steps towards a number of segments.
func (m *lockstep) towards(t *rapid.T) {
	n := rapid.IntRange(1, 9).Draw(t, "segments")
	for range rapid.IntRange(1, 4).Draw(t, "steps") {
		var layout []segment.Segment
		for _, token := range m.tokens() {
			layout = append(layout, token.Range())
		}
		if len(layout) == 0 {
			return
		}
		step, due, err := segment.Next(layout, n)
		if err != nil {
			t.Fatal(err)
		}
		if !due {
			return
		}
		m.step(t, "towards", func(h Harness) error {
			if step.Kind == segment.Split {
				return h.Store.Split(m.ctx, m.group, step.Whole)
			}
			return h.Store.Merge(m.ctx, m.group, step.Low)
		})
	}
}

func (m *lockstep) define(t *rapid.T) {
	id := rapid.SampledFrom([]string{"d1", "d1", "d2"}).Draw(t, "definition")
	owner := m.owner(t)
	owner.Processor = m.processor
	m.step(t, "define", func(h Harness) error {
		return h.Directory.DeclareProcessor(m.ctx, tokenstore.Processor{Name: m.processor, Definition: id, Replicas: 1, Live: []byte(`{}`),
			Installation: owner.Installation, TakeOverFrom: owner.TakeOverFrom})
	})
}

// request asks for replays as a spec does: all that are wanted now.
func (m *lockstep) request(t *rapid.T) {
	var requests []tokenstore.ReplayRequest
	for _, id := range m.ids {
		if rapid.IntRange(0, 3).Draw(t, "wanted") > 0 {
			requests = append(requests, tokenstore.ReplayRequest{ID: id, Groups: []string{m.group}, From: progress.StartPosition{Type: progress.Earliest},
				Definition: rapid.SampledFrom([]string{"d1", "d1", "d2"}).Draw(t, "definition"), Rebind: rapid.Bool().Draw(t, "rebind"), Context: map[string]string{},
				Sequencing: map[string]string{m.group: anySequencing(t)},
				State:      rapid.SampledFrom([]tokenstore.ReplayState{tokenstore.ReplayWanted, tokenstore.ReplayWanted, tokenstore.ReplayToBeCancelled}).Draw(t, "state")})
		}
	}
	m.requested = requests
	m.step(t, "request", func(h Harness) error { return h.Store.RequestReplays(m.ctx, m.processor, requests) })
}

// replay runs an operation on one of the replays, as each store knows it.
func (m *lockstep) replay(t *rapid.T, what string, operation func(Harness, tokenstore.Replay) error) {
	m.of(rapid.SampledFrom(m.ids).Draw(t, "replay"), t, what, operation)
}

func (m *lockstep) of(id string, t *rapid.T, what string, operation func(Harness, tokenstore.Replay) error) {
	m.step(t, what, func(h Harness) error {
		all, err := h.Store.Replays(m.ctx, m.processor)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.ID == id {
				return operation(h, r)
			}
		}
		return &tokenstore.NotDueError{Reason: "no such replay"}
	})
}

func (m *lockstep) begin(t *rapid.T) {
	m.replay(t, "begin", func(h Harness, r tokenstore.Replay) error { return h.Store.BeginReset(m.ctx, m.processor, r) })
}

func (m *lockstep) reset(t *rapid.T) {
	var fail error
	if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
		fail = errHandler
	}
	m.replay(t, "reset", func(h Harness, r tokenstore.Replay) error {
		return h.Reset(m.ctx, m.processor, r, Line{}, At(0), nil, fail)
	})
}

func (m *lockstep) endReset(t *rapid.T) {
	phase := rapid.SampledFrom([]tokenstore.ReplayPhase{tokenstore.ReplayPending, tokenstore.ReplayFailed, tokenstore.ReplayCancelled}).Draw(t, "phase")
	m.replay(t, "end reset", func(h Harness, r tokenstore.Replay) error {
		return h.Store.EndReset(m.ctx, r, phase, "Reason", "message")
	})
}

func (m *lockstep) complete(t *rapid.T) {
	m.replay(t, "complete", func(h Harness, r tokenstore.Replay) error { return h.Store.Complete(m.ctx, r) })
}

func (m *lockstep) abandon(t *rapid.T) {
	m.replay(t, "abandon", func(h Harness, r tokenstore.Replay) error { return h.Store.Abandon(m.ctx, r, Line{}) })
}

// replayed has a replay asked for that nothing stands in the way of but one that runs, and its reset done.
func (m *lockstep) replayed(t *rapid.T) {
	m.step(t, "define", func(h Harness) error {
		return h.Directory.DeclareProcessor(m.ctx, tokenstore.Processor{Name: m.processor, Definition: "d1", Replicas: 1, Live: []byte(`{}`), Installation: "a"})
	})
	m.elapse(t)
	id := fmt.Sprint("replay-", m.row)
	m.row++
	m.ids = append(m.ids[1:], id)
	m.requested = []tokenstore.ReplayRequest{{ID: id, Groups: []string{m.group}, From: progress.StartPosition{Type: progress.Earliest},
		Definition: "d1", Context: map[string]string{}, State: tokenstore.ReplayWanted, Sequencing: map[string]string{m.group: anySequencing(t)}}}
	m.step(t, "request", func(h Harness) error { return h.Store.RequestReplays(m.ctx, m.processor, m.requested) })
	m.of(id, t, "begin", func(h Harness, r tokenstore.Replay) error { return h.Store.BeginReset(m.ctx, m.processor, r) })
	m.of(id, t, "reset", func(h Harness, r tokenstore.Replay) error {
		return h.Reset(m.ctx, m.processor, r, Line{}, At(0), nil, nil)
	})
}

// apart has one half of a pair get ahead of the other, and then merged with it.
func (m *lockstep) apart(t *rapid.T) {
	for _, token := range m.tokens() {
		low, high := token.Range().Pair()
		if token.Range() != low || low == high {
			continue
		}
		got, _ := both(m, t, "claim", func(h Harness) ([]tokenstore.Token, error) {
			return h.Store.Claim(m.ctx, m.processor, m.incarnation(1), 3, []tokenstore.Claim{{Key: token.Key, Epoch: token.Epoch, Sequencing: token.Sequencing}})
		})
		for _, owned := range got {
			a := to(owned, owned.Parts[0].Progress.Position+rapid.Int64Range(1, 9).Draw(t, "ahead"))
			m.step(t, "commit", func(h Harness) error { return h.Commit(m.ctx, []tokenstore.Advance{a}, nil) })
		}
		m.join(t, high)
		return
	}
}

func (m *lockstep) self(t *rapid.T) tokenstore.Worker {
	w := worker(m.incarnation(rapid.Int64Range(1, 3).Draw(t, "worker")))
	w.Definition = rapid.SampledFrom([]string{"d1", "d2"}).Draw(t, "definition")
	w.Installation = m.installation(t)
	return w
}

func (m *lockstep) register(t *rapid.T) {
	w := m.self(t)
	m.step(t, "register", func(h Harness) error { return h.Directory.Register(m.ctx, m.processor, w) })
}

func (m *lockstep) heartbeat(t *rapid.T) {
	w := m.self(t)
	w.Report = tokenstore.Report{Proven: rapid.IntRange(0, 5).Draw(t, "proven") == 0, Idle: rapid.Bool().Draw(t, "idle")}
	if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
		w.Report.Failing = "event 1"
	}
	m.step(t, "beat", func(h Harness) error {
		_, err := h.Directory.Heartbeat(m.ctx, w) // views say whom the response counts
		return err
	})
}

func (m *lockstep) state(t *rapid.T) {
	w := m.self(t)
	to := rapid.SampledFrom([]tokenstore.State{tokenstore.Active, tokenstore.Draining, tokenstore.Ended}).Draw(t, "state")
	m.step(t, "state", func(h Harness) error { return h.Directory.SetState(m.ctx, w.Incarnation, to) })
}

func (m *lockstep) elapse(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{2 * tokenstore.Lease, 2 * time.Minute}).Draw(t, "time")
	m.step(t, "elapse", func(h Harness) error { return h.Elapse(m.ctx, d) })
}

func (m *lockstep) anyAssignment(t *rapid.T) tokenstore.Assignment {
	return tokenstore.Assignment{Key: tokenstore.Key{Group: m.group, Segment: rapid.Uint32Range(0, 3).Draw(t, "segment")},
		Worker: rapid.SampledFrom([]int64{0, m.incarnation(1), m.incarnation(2)}).Draw(t, "assignee")}
}

func (m *lockstep) assign(t *rapid.T) {
	p := tokenstore.Plan{Planner: "test", Last: rapid.Int64Range(0, 6).Draw(t, "last"), Members: []int64{m.incarnation(1)}, Changed: rapid.Bool().Draw(t, "changed")}
	if p.Changed {
		p.Targets = []tokenstore.Assignment{m.anyAssignment(t)}
	}
	m.step(t, "assign", func(h Harness) error { return h.Directory.Assign(m.ctx, m.processor, p) })
}

func (m *lockstep) adopt(t *rapid.T) {
	orphan, w := m.anyAssignment(t), m.self(t)
	_, _ = both(m, t, "adopt", func(h Harness) ([]tokenstore.Key, error) { // refusals are compared
		return h.Directory.Adopt(m.ctx, m.processor, w.Incarnation, []tokenstore.Assignment{orphan})
	})
}
