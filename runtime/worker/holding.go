package worker

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
)

// Holding is a segment that a worker owns, for those who ask who owns what. It holds nothing of events but positions: the
// port on which it is served is open to the cluster, and messages of errors may quote data.
type Holding struct {
	Group    string `json:"group"`
	Segment  uint32 `json:"segment"`
	Mask     uint32 `json:"mask"`
	Position int64  `json:"position"`
	// Blocked is set while the segment stands still.
	Blocked *Blocked `json:"blocked,omitempty"`
}

// Blocked is why a segment stands still.
type Blocked struct {
	Kind     tokenstore.FaultKind `json:"kind"`
	Reason   string               `json:"reason"`
	Position int64                `json:"position,omitempty"` // of the event that fails
	Type     string               `json:"type,omitempty"`     // of that event
	Stream   string               `json:"stream,omitempty"`   // of that event
	SQLState string               `json:"sqlState,omitempty"`
	Object   string               `json:"object,omitempty"` // of the database: the constraint, column or table that PostgreSQL names
	Attempts int                  `json:"attempts,omitempty"`
	Since    time.Time            `json:"since"`
}

// Holdings are the segments that this worker owned at its last heartbeat, by group and segment.
func (w *Worker) Holdings() []Holding {
	if held := w.holdings.Load(); held != nil {
		return *held
	}
	return []Holding{}
}

// holding describes a segment at a time. The caller holds the life's lock.
func (s *segmentRun) holding(now time.Time) Holding {
	h := Holding{Group: s.group.name, Segment: s.Token.Segment, Mask: s.Token.Mask, Position: s.Token.Parts[0].Progress.Position}
	if f := s.fault; f != nil && !passes(f, now) {
		h.Blocked = &Blocked{Kind: f.Kind, Reason: f.Reason, Position: f.Position, Type: f.Type, Stream: f.Stream, Attempts: f.Attempts, Since: f.Since}
		if e := f.SQL; e != nil {
			h.Blocked.SQLState, h.Blocked.Object = e.State, cmp.Or(e.Constraint, e.Column, e.Table)
		}
	}
	return h
}

// RunningCall is a call that has been running for a while.
type RunningCall struct {
	Group string `json:"group"`
	tokenstore.Call
}

// Calls are those that had been running for a while at the last heartbeat, the oldest first.
func (w *Worker) Calls() []RunningCall {
	if calls := w.calls.Load(); calls != nil {
		return *calls
	}
	return []RunningCall{}
}

// showCalls makes the calls of a report known to Calls.
func (w *Worker) showCalls(report tokenstore.Report) {
	calls := []RunningCall{}
	for group, r := range report.Groups {
		for _, c := range r.Calls {
			calls = append(calls, RunningCall{group, c})
		}
	}
	slices.SortFunc(calls, func(a, b RunningCall) int {
		return cmp.Or(-cmp.Compare(a.Running, b.Running), cmp.Compare(a.Group, b.Group))
	})
	w.calls.Store(&calls)
}

// show makes the segments held known to Holdings. The caller holds the lock.
func (l *life) show() {
	held, now := make([]Holding, 0, len(l.segments)), time.Now()
	for _, s := range l.segments {
		held = append(held, s.holding(now))
	}
	slices.SortFunc(held, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Segment, b.Segment))
	})
	l.Worker.holdings.Store(&held)
}
