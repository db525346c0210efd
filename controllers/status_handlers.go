package controllers

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/tokenstore"
)

// handlerValid is what workers of the wanted definition say of its handlers.
func handlerValid(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionHandlerValid, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonValid,
		Message: "workers run the handlers"}
	facts := s.store.Facts
	for _, fault := range facts.Faults {
		if fault.Definition == s.desired.ID && speaksAgainstDefinition(fault) && !aboutSequencing(fault) {
			c.Status, c.Reason = metav1.ConditionFalse, handlerReason(fault.Reason)
			c.Message = faultText([]stores.Fault{fault}, s.message(v1alpha1.ConditionHandlerValid, c.Reason))
			return c
		}
	}
	if wait := setupWait(s); wait != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, wait.reason, wait.message
		return c
	}
	reported := func(w stores.Worker) bool { return w.Definition == s.desired.ID && w.Reported }
	found := s.was(v1alpha1.ConditionHandlerValid) == string(metav1.ConditionTrue) && s.processor.Status.Definition == s.desired.ID
	if !found && !slices.ContainsFunc(facts.Workers, reported) {
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "no worker has reported on this definition yet"
	}
	return c
}

func speaksAgainstDefinition(f stores.Fault) bool {
	return f.Kind == tokenstore.DefinitionFault || f.Refused && !waits(f)
}

// waits reports whether a worker refuses a group only until something else has ended: a setup in
// another worker, a lock, or an outage of the database.
func waits(f stores.Fault) bool {
	return f.Refused && (f.Kind == tokenstore.ContentionFault || f.Kind == tokenstore.InfrastructureFault)
}

// lockNotAvailable is the reason that workers report if they do not get a lock in time.
const lockNotAvailable = "LockNotAvailable"

// setupWait says why workers of the desired definition have not checked its handlers yet: a setup
// runs, waits for locks, or cannot reach the database. It is nil if no worker waits. A running
// setup comes first, because the other workers then only report that they wait for it.
func setupWait(s *scope) *verdict {
	for _, call := range s.store.Facts.Calls {
		if call.Definition == s.desired.ID && call.Kind == tokenstore.SetupCall && !call.Abandoned {
			return &verdict{reason: v1alpha1.ReasonSetupRuns, message: callText(call)}
		}
	}
	for _, f := range s.store.Facts.Faults {
		if f.Definition != s.desired.ID || !waits(f) {
			continue
		}
		v := &verdict{reason: v1alpha1.ReasonUnknown}
		switch f.Reason {
		case v1alpha1.ReasonSetupRuns:
			v.reason = f.Reason
		case lockNotAvailable:
			v.reason = v1alpha1.ReasonWaitingForLocks
		}
		v.message = faultText([]stores.Fault{f}, s.message(v1alpha1.ConditionHandlerValid, v.reason))
		return v
	}
	return nil
}

// handlerReason is one of the condition's reasons. Workers know finer ones, such as TableMissing; their message says the same.
func handlerReason(reason string) string {
	switch reason {
	case v1alpha1.ReasonNotRegistered, v1alpha1.ReasonSetupFailed, v1alpha1.ReasonSetupTimedOut, v1alpha1.ReasonTransactionEnded:
		return reason
	}
	return v1alpha1.ReasonStatementInvalid
}

// degraded is True while something keeps segments from going on that does not go away by itself. The first of these explains it.
func degraded(s *scope) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonHealthy,
		Message: "no segment is blocked by an event"}
	facts := s.store.Facts
	faults := slices.DeleteFunc(slices.Clone(facts.Faults), func(f stores.Fault) bool { return speaksAgainstDefinition(f) || waits(f) })
	is := func(reason, message string) {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reason, message
	}
	switch unfit := unfitWorker(facts.Workers); {
	case !s.store.Seen:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonUnknown, "the operator has not seen the store yet"
	case sourceOutage(s) != "" && !onlyOperatorLacksSource(s):
		is(v1alpha1.ReasonSourceUnreachable, sourceOutage(s))
	case len(faults) > 0:
		is(v1alpha1.ReasonSegmentBlocked, faultText(faults, s.message(v1alpha1.ConditionDegraded, v1alpha1.ReasonSegmentBlocked)))
	case len(facts.Calls) > 0 && facts.Calls[0].Abandoned:
		is(v1alpha1.ReasonCallAbandoned, callText(facts.Calls[0])+" and does not end, although its time limit is over")
	case unfit != nil:
		is(v1alpha1.ReasonWorkerUnfit, fmt.Sprintf("pod %s is given no segments, as everything fails there and not elsewhere: %s: %s", unfit.Pod, unfit.Unfit.Reason, unfit.Unfit.Message))
	case s.store.Secrets != nil:
		is(v1alpha1.ReasonSecretUnusable, fmt.Sprintf("the store's Secret was changed: connections that are open go on, and new ones, of operator and pods, fail: %s: %s",
			s.store.Secrets.Reason, s.store.Secrets.Message))
	case len(incomplete(s)) > 0:
		is(v1alpha1.ReasonProjectionIncomplete, fmt.Sprintf(
			"a replay of %s was abandoned after its reset: the projection lacks what was not handled again, until another replay is complete", strings.Join(incomplete(s), ", ")))
	case unsupported(facts.Workers) != "":
		is(v1alpha1.ReasonSettingsUnsupported, unsupported(facts.Workers))
	case sourceOutage(s) != "": // workers go on, and somebody may wonder about the lag
		c.Reason, c.Message = v1alpha1.ReasonSourceUnreachable, sourceOutage(s)+"; only the operator cannot use it, and the lag is unknown"
	case len(facts.Calls) > 0: // no fault yet, but somebody may wonder
		c.Reason, c.Message = v1alpha1.ReasonCallRunning, callText(facts.Calls[0])
	}
	return c
}

// sourceOutage is why a source in a database of its own cannot be used; empty if it can.
func sourceOutage(s *scope) string {
	if s.store.Source == nil {
		return ""
	}
	return s.store.Source.Message
}

// onlyOperatorLacksSource reports whether the operator alone cannot use the source: it may not, or
// workers show that they can.
func onlyOperatorLacksSource(s *scope) bool {
	return s.store.Source.OperatorOnly || workersGoOn(s.pods, s.store.Source.Since.Unix())
}

func unfitWorker(workers []stores.Worker) *stores.Worker {
	for i := range workers {
		if workers[i].Unfit != nil {
			return &workers[i]
		}
	}
	return nil
}

// callText says which call has been running, and for how long at least.
func callText(c stores.Call) string {
	what := "a batch"
	switch c.Kind {
	case tokenstore.BatchCall:
	case tokenstore.SetupCall:
		what = "the setup"
	case tokenstore.ResetCall:
		what = "the reset"
		if c.Replay != "" {
			what += " of replay " + c.Replay
		}
	}
	text := fmt.Sprintf("%s of group %s", what, c.Group)
	if c.Segment != nil {
		text += fmt.Sprintf(", segment %d", *c.Segment)
	}
	if c.Position > 0 {
		text += ", from the " + eventText(c.Position, c.Type, c.Stream)
	}
	text += fmt.Sprintf(", has been running for more than %s in pod %s", duration.HumanDuration(c.Age), c.Pod)
	if attempts := stores.AtLeast(c.Attempt); attempts > 1 {
		text += fmt.Sprintf(" (attempt %d or later)", attempts)
	}
	return text
}

func eventText(position int64, kind, stream string) string {
	text := fmt.Sprintf("event at position %d", position)
	var of []string
	if kind != "" {
		of = append(of, "type "+kind)
	}
	if stream != "" {
		of = append(of, "stream "+stream)
	}
	if len(of) > 0 {
		text += " (" + strings.Join(of, ", ") + ")"
	}
	return text
}

// unsupported says which settings a worker's version does not know; empty where all know all.
func unsupported(workers []stores.Worker) string {
	for _, w := range workers {
		if len(w.Unsupported) > 0 {
			return fmt.Sprintf("workers of version %s do not support some settings and go on as before: %s; use an image of the operator's version",
				or(w.Version, "unknown"), strings.Join(w.Unsupported, "; "))
		}
	}
	return ""
}

// faultText names the first of some faults. The text of an error may differ from one attempt to the
// next in a number, a time or an address. So that not each attempt writes the status, the text from
// before stays if nothing else differs, until the number of attempts reaches its next step.
func faultText(faults []stores.Fault, before string) string {
	head, tail := faultHead(faults[0]), ""
	if more := stores.AtLeast(len(faults) - 1); more > 0 {
		tail = fmt.Sprintf(" (and %d or more others)", more)
	}
	text := cut(head+faults[0].Message+sqlText(faults[0].SQL), longestMessage-len(tail)) + tail
	if strings.HasPrefix(before, head) && strings.HasSuffix(before, tail) && alike(strings.TrimSuffix(before, tail), strings.TrimSuffix(text, tail)) {
		return before
	}
	return text
}

// hexDigits are the characters of numbers, addresses and UUIDs.
const hexDigits = "0123456789abcdefABCDEF"

var numbers = regexp.MustCompile("[" + hexDigits + "]*[0-9][" + hexDigits + "]*")

// alike reports whether two texts differ in numbers at most. If both are cut, a longer number in one
// of them has moved its end.
func alike(a, b string) bool {
	x, xCut := strings.CutSuffix(a, "…")
	y, yCut := strings.CutSuffix(b, "…")
	x, y = numbers.ReplaceAllString(x, "0"), numbers.ReplaceAllString(y, "0")
	if xCut && yCut {
		if len(x) > len(y) {
			x, y = y, x
		}
		return strings.HasPrefix(y, strings.TrimRight(x, hexDigits))
	}
	return x == y && xCut == yCut
}

// faultHead says what fails, where, and how often it has.
func faultHead(f stores.Fault) string {
	text := "group " + f.Group
	if f.Segment != nil {
		text += fmt.Sprintf(", segment %d", *f.Segment)
	}
	if f.Position > 0 {
		text += ", " + eventText(f.Position, f.Type, f.Stream)
	}
	switch {
	case f.Attempts == 1:
		text += ", 1 attempt"
	case f.Attempts > 1:
		text += fmt.Sprintf(", %d or more attempts", f.Attempts)
	}
	if f.Reason != "" {
		text += ": " + f.Reason
	}
	return text + ": "
}

// sqlText is what PostgreSQL says beside an error's message.
func sqlText(e *tokenstore.SQLError) string {
	if e == nil {
		return ""
	}
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	add("SQLSTATE", e.State)
	table := e.Table
	if e.Schema != "" && table != "" {
		table = e.Schema + "." + table
	}
	add("table", table)
	add("column", e.Column)
	add("constraint", e.Constraint)
	if e.Position > 0 {
		add("at character", fmt.Sprint(e.Position))
	}
	add("detail:", e.Detail)
	add("hint:", e.Hint)
	if len(parts) == 0 {
		return ""
	}
	return " [" + strings.Join(parts, ", ") + "]"
}

// note keeps a text to what the API server accepts as an event's note.
func note(text string) string {
	const longest = 1024
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest-len("…")], "") + "…"
}

// longestMessage is how long a condition's message may be, in characters, so that a screen shows it.
// Kubernetes allows more, but etcd has to store it.
const longestMessage = 900

// short cuts a condition's message.
func short(text string) string { return cut(text, longestMessage) }

// cut shortens a text to some characters, of which the last says that it was cut.
func cut(text string, longest int) string {
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest-1]) + "…"
	}
	return text
}
