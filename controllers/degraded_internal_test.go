package controllers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/tokenstore"
)

func failing(attempts int, message string) stores.Fault {
	return stores.Fault{Group: "view", Definition: "d", Kind: tokenstore.EventFault, Reason: "ConstraintViolated", Message: message, Segment: ptr.To[uint32](3),
		Position: 1042, Type: "OrderPlaced", Stream: "order-7", Attempts: stores.AtLeast(attempts)}
}

func TestDegradedSaysWhatStandsStillAndWhy(t *testing.T) {
	constraint := failing(4, "ERROR: duplicate key")
	constraint.SQL = &tokenstore.SQLError{State: "23505", Schema: "public", Table: "orders", Constraint: "orders_pkey", Hint: "use ON CONFLICT", Position: 12}
	call := stores.Call{Group: "view", Pod: "a", Age: 10 * time.Second, Call: tokenstore.Call{Kind: tokenstore.BatchCall, Segment: ptr.To[uint32](3), Position: 7,
		Type: "OrderPlaced", Stream: "order-7", Attempt: 3}}
	abandoned := call
	abandoned.Abandoned = true
	reset := stores.Call{Group: "view", Pod: "a", Age: time.Minute, Call: tokenstore.Call{Kind: tokenstore.ResetCall, Replay: "fix"}}
	for name, tc := range map[string]struct {
		change func(*stores.Facts)
		want   string
	}{
		"an event": {func(f *stores.Facts) { f.Faults = []stores.Fault{failing(1, "m")} },
			"True/SegmentBlocked: group view, segment 3, event at position 1042 (type OrderPlaced, stream order-7), 1 attempt: ConstraintViolated: m"},
		"what PostgreSQL says": {func(f *stores.Facts) { f.Faults = []stores.Fault{constraint} },
			"True/SegmentBlocked: group view, segment 3, event at position 1042 (type OrderPlaced, stream order-7), 2 or more attempts: ConstraintViolated: ERROR: duplicate key" +
				" [SQLSTATE 23505, table public.orders, constraint orders_pkey, at character 12, hint: use ON CONFLICT]"},
		"several": {func(f *stores.Facts) {
			f.Faults = []stores.Fault{failing(1, "m"), failing(1, "m"), failing(1, "m"), failing(1, "m")}
		}, "True/SegmentBlocked: group view, segment 3, event at position 1042 (type OrderPlaced, stream order-7), 1 attempt: ConstraintViolated: m (and 2 or more others)"},
		"a call that goes on": {func(f *stores.Facts) { f.Calls = []stores.Call{call} },
			"False/CallRunning: a batch of group view, segment 3, from the event at position 7 (type OrderPlaced, stream order-7), has been running for more than 10s in pod a (attempt 2 or later)"},
		"a call that does not end": {func(f *stores.Facts) { f.Calls = []stores.Call{abandoned} },
			"True/CallAbandoned: a batch of group view, segment 3, from the event at position 7 (type OrderPlaced, stream order-7), has been running for more than 10s in pod a" +
				" (attempt 2 or later) and does not end, although its time limit is over"},
		"a reset": {func(f *stores.Facts) { f.Calls = []stores.Call{reset} },
			"False/CallRunning: the reset of replay fix of group view, has been running for more than 60s in pod a"},
		"a setup": {func(f *stores.Facts) {
			f.Calls = []stores.Call{{Group: "view", Pod: "a", Age: 5 * time.Second, Call: tokenstore.Call{Kind: tokenstore.SetupCall}}}
		}, "False/CallRunning: the setup of group view, has been running for more than 5s in pod a"},
		"a pod": {func(f *stores.Facts) {
			f.Workers[0].Unfit = &stores.Fault{Reason: "NoSpace", Message: "the disk is full"}
		},
			"True/WorkerUnfit: pod a is given no segments, as everything fails there and not elsewhere: NoSpace: the disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			c := degraded(healthy(t, func(s *scope) { tc.change(&s.store.Facts) }))
			if diff := cmp.Diff(tc.want, fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHandlerValidSaysWhatStandsStillAndWhy(t *testing.T) {
	fault := func(change func(*stores.Fault)) stores.Fault {
		f := failing(4, "ERROR: relation does not exist")
		f.Kind, f.Reason, f.SQL = tokenstore.DefinitionFault, "TableMissing", &tokenstore.SQLError{State: "42P01", Position: 12}
		change(&f)
		return f
	}
	for name, tc := range map[string]struct {
		fault stores.Fault
		want  string
	}{
		"a statement": {fault(func(*stores.Fault) {}), "False/StatementInvalid: group view, segment 3, event at position 1042 (type OrderPlaced, stream order-7)," +
			" 2 or more attempts: TableMissing: ERROR: relation does not exist [SQLSTATE 42P01, at character 12]"},
		"a setup": {stores.Fault{Group: "view", Kind: tokenstore.DefinitionFault, Refused: true, Reason: "SetupFailed", Message: "handler.sql.setup: no", Attempts: 1},
			"False/SetupFailed: group view, 1 attempt: SetupFailed: handler.sql.setup: no"},
		"what no setup gets by": {stores.Fault{Group: "view", Kind: tokenstore.InfrastructureFault, Refused: true, Reason: "ServerError", Message: "no", Attempts: 1},
			"Unknown/Unknown: group view, 1 attempt: ServerError: no"},
	} {
		c := handlerValid(healthy(t, func(s *scope) {
			tc.fault.Definition = s.desired.ID
			s.store.Facts.Faults = []stores.Fault{tc.fault}
		}))
		if diff := cmp.Diff(tc.want, fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// writes counts how often a status is written while time goes on, each second once.
func writes(t *testing.T, seconds int, at func(s *scope, second int)) (count int) {
	t.Helper()
	s := healthy(t)
	s.processor.Status = statusOf(s)
	last := now
	for second := range seconds {
		s = healthy(t, func(next *scope) { next.processor.Status = s.processor.Status })
		s.now = now.Add(time.Duration(second) * time.Second)
		at(s, second)
		after := statusOf(s)
		if cmp.Equal(s.processor.Status, after) || !urgent(s.processor.Status, after) && s.now.Sub(last) < figuresEvery {
			continue
		}
		s.processor.Status, last = after, s.now
		count++
	}
	return count
}

func TestStatusIsWrittenSeldomWhileAnEventFails(t *testing.T) {
	// An attempt a second for an hour: 1, 2, 5, 10, 20, 50, 100, 200, 500, 1,000, 2,000 attempts.
	got := writes(t, 3600, func(s *scope, second int) {
		s.store.Facts.Faults = []stores.Fault{failing(second+1, fmt.Sprintf("dial 10.0.0.1:%d: no route", 40000+second))}
	})
	if got > 11 {
		t.Errorf("the status is written %d times in an hour", got)
	}
}

func TestStatusIsWrittenSeldomWhileAStatementIsInvalid(t *testing.T) {
	got := writes(t, 3600, func(s *scope, second int) {
		f := failing(second+1, fmt.Sprintf("relation t_%d does not exist", second))
		f.Kind, f.Definition = tokenstore.DefinitionFault, s.desired.ID
		s.store.Facts.Faults = []stores.Fault{f}
	})
	if got > 11 {
		t.Errorf("the status is written %d times in an hour", got)
	}
}

func TestStatusIsWrittenSeldomWhileSegmentsAreSplit(t *testing.T) {
	got := writes(t, 60, func(s *scope, second int) {
		s.store.Facts.Groups[0].Wanted, s.store.Facts.Groups[0].Segments = 4000, 4+second*50
		s.store.Facts.Groups[0].Owned = s.store.Facts.Groups[0].Segments
	})
	if got > 7 { // once for the reason, and then figures every ten seconds
		t.Errorf("the status is written %d times in a minute", got)
	}
}

func TestStatusIsWrittenSeldomWhileBatchesAreSlow(t *testing.T) {
	got := writes(t, 60, func(s *scope, second int) {
		if second%7 >= 5 {
			s.store.Facts.Calls = []stores.Call{{Group: "view", Pod: "a", Age: 5 * time.Second, Call: tokenstore.Call{Kind: tokenstore.BatchCall, Position: int64(second)}}}
		}
	})
	if got > 6 {
		t.Errorf("the status is written %d times in a minute", got)
	}
}

// TestAFaultsTextIsThatOfTheLastAttempt also if everything else is as before: whoever has made one
// table has to read which one is missing now. Numbers and addresses alone change nothing.
func TestAFaultsTextIsThatOfTheLastAttempt(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after string
		changes       bool
	}{
		"another table":    {`relation "orders" does not exist`, `relation "payments" does not exist`, true},
		"another end":      {"no", "no route", true},
		"another port":     {"dial 10.0.0.1:4000: no route", "dial 10.0.0.1:41234: no route", false},
		"another address":  {"panic at 0xc0001234ab", "panic at 0xc000ffff01", false},
		"another request":  {"request 6f1c9d30-0a1b-4c2d-8e3f-1a2b3c4d5e6f", "request 0a1b2c3d-4e5f-4061-b728-293a4b5c6d7e", false},
		"a long text":      {strings.Repeat("no 1 ", 400), strings.Repeat("no 2 ", 400), false},
		"a long other one": {strings.Repeat("no 1 ", 400), strings.Repeat("yes 1 ", 400), true},
	} {
		at := func(message string) *scope {
			return healthy(t, func(s *scope) {
				f := failing(60, message)
				f.Kind, f.Definition = tokenstore.DefinitionFault, s.desired.ID
				s.store.Facts.Faults = []stores.Fault{f}
			})
		}
		s := at(tc.after)
		fresh := handlerValid(s).Message
		s.processor.Status = statusOf(at(tc.before))
		if again := statusOf(at(tc.before)); !cmp.Equal(s.processor.Status, again) {
			t.Errorf("%s: the same attempt changes the status", name)
		}
		if got := handlerValid(s).Message; (got == fresh) != tc.changes {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestALongTextSaysThatThereAreOtherFaults(t *testing.T) {
	s := healthy(t, func(s *scope) {
		other := failing(1, "no")
		other.Segment = ptr.To[uint32](4)
		s.store.Facts.Faults = []stores.Fault{failing(1, strings.Repeat("no ", 1000)), other}
	})
	c := meta.FindStatusCondition(statusOf(s).Conditions, v1alpha1.ConditionDegraded)
	if !strings.HasSuffix(c.Message, "… (and 1 or more others)") {
		t.Error(c.Message)
	}
}

func TestAFaultThatChangesIsTold(t *testing.T) {
	s := healthy(t, func(s *scope) { s.store.Facts.Faults = []stores.Fault{failing(1, "first")} })
	s.processor.Status = statusOf(s)
	other := failing(1, "second")
	other.Position = 1043
	s.store.Facts.Faults = []stores.Fault{other}
	if c := meta.FindStatusCondition(statusOf(s).Conditions, v1alpha1.ConditionDegraded); c.Message[len(c.Message)-6:] != "second" {
		t.Error(c.Message)
	}
	s.store.Facts.Faults = nil
	if c := meta.FindStatusCondition(statusOf(s).Conditions, v1alpha1.ConditionDegraded); c.Status != metav1.ConditionFalse {
		t.Error(c)
	}
}
