package kubectl

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/runtime/worker"
)

// screen shows one processor: what is wrong first, then groups, who owns what, and what stands still.
func screen(s sight) string {
	var out bytes.Buffer
	head(&out, s)
	groups(&out, s)
	replays(&out, s)
	owners(&out, s)
	blocked(&out, s)
	calls(&out, s)
	unseen(&out, s)
	return out.String()
}

func head(out io.Writer, s sight) {
	p := s.processor
	ready := condition(p, v1alpha1.ConditionReady)
	fmt.Fprintf(out, "%s/%s   %s   segments %s   pods %s", p.Namespace, p.Name, readiness(ready), orDash(p.Status.Segments.Summary), pods(s))
	if p.Status.Definition != "" {
		fmt.Fprintf(out, "   definition %s", p.Status.Definition)
	}
	fmt.Fprintln(out)
	if warning := s.operator.warning(s.now); warning != "" {
		fmt.Fprintf(out, "! %s\n", warning)
	}
	if p.Status.ObservedGeneration < p.Generation {
		fmt.Fprintf(out, "! the operator has not looked at generation %d yet (last: %d): is it running?\n", p.Generation, p.Status.ObservedGeneration)
	}
	if p.Status.AsOf != nil {
		fmt.Fprintf(out, "! the operator has not been able to read the store for %s: what it says of segments and groups is as of %s\n",
			duration.HumanDuration(s.now.Sub(p.Status.AsOf.Time)), p.Status.AsOf.UTC().Format(time.RFC3339))
	}
	for _, c := range wrong(p) {
		fmt.Fprintf(out, "! %s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	if c := condition(p, v1alpha1.ConditionReplaying); c != nil && c.Reason != v1alpha1.ReasonNotReplaying && c.Status != metav1.ConditionUnknown {
		fmt.Fprintf(out, "  %s: %s\n", c.Reason, c.Message)
	}
	for _, w := range p.Status.OpenWriters {
		fmt.Fprintf(out, "! %s by %s has been open for %s, and the events that it has written wait for its end\n", transaction(w), orDash(w.User), duration.HumanDuration(s.now.Sub(w.Since.Time)))
	}
	if p.Spec.DesiredState == v1alpha1.DesiredStatePaused {
		fmt.Fprintf(out, "! paused: `kubectl sluice resume %s` goes on\n", p.Name)
	}
}

func transaction(w v1alpha1.OpenWriter) string {
	if w.Prepared != "" {
		return fmt.Sprintf("the prepared transaction %q", w.Prepared)
	}
	return fmt.Sprintf("a transaction of %q (pid %d)", w.Application, w.PID)
}

func readiness(ready *metav1.Condition) string {
	switch {
	case ready == nil:
		return "Ready -"
	case ready.Status == metav1.ConditionTrue:
		return "Ready"
	}
	return "NOT READY"
}

func pods(s sight) string {
	want := "-"
	if s.processor.Spec.Replicas != nil {
		want = fmt.Sprint(*s.processor.Spec.Replicas)
	}
	if s.podsErr != nil {
		return "-/" + want
	}
	ready := 0
	for _, p := range s.pods {
		if p.state == "Ready" {
			ready++
		}
	}
	return fmt.Sprintf("%d/%s", ready, want)
}

func condition(p v1alpha1.EventProcessor, name string) *metav1.Condition {
	i := slices.IndexFunc(p.Status.Conditions, func(c metav1.Condition) bool { return c.Type == name })
	if i < 0 {
		return nil
	}
	return &p.Status.Conditions[i]
}

// wrong are the conditions that say that something is, the most telling first.
func wrong(p v1alpha1.EventProcessor) []metav1.Condition {
	var all []metav1.Condition
	for _, test := range []struct {
		name string
		bad  func(metav1.ConditionStatus) bool
	}{
		{v1alpha1.ConditionReady, notTrue}, {v1alpha1.ConditionStalled, isTrue}, {v1alpha1.ConditionDegraded, isTrue},
		{v1alpha1.ConditionAvailable, notTrue}, {v1alpha1.ConditionHandlerValid, notTrue}, {v1alpha1.ConditionStoreReachable, notTrue},
	} {
		if c := condition(p, test.name); c != nil && test.bad(c.Status) {
			all = append(all, *c)
		}
	}
	return all
}

func notTrue(s metav1.ConditionStatus) bool { return s != metav1.ConditionTrue }
func isTrue(s metav1.ConditionStatus) bool  { return s == metav1.ConditionTrue }

// table aligns columns.
func table(out io.Writer, header string, fill func(row func(columns ...any))) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "\n%s\n", strings.ReplaceAll(header, " ", "\t"))
	fill(func(columns ...any) {
		texts := make([]string, len(columns))
		for i, c := range columns {
			texts[i] = fmt.Sprint(c)
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(texts, "\t"), "\t"))
	})
	w.Flush()
}

func groups(out io.Writer, s sight) {
	table(out, "GROUP SEGMENTS LAG RATE STATE", func(row func(...any)) {
		for _, g := range s.processor.Spec.ProcessingGroups {
			owned, lag, rate := s.figuresOf(g.Name, int(g.Segments))
			row(g.Name, owned+"/"+s.segmentsOf(g), lag, rate, s.stateOf(g.Name))
		}
	})
}

// figuresOf a group over all pods. What a pod that was not asked would change is not told, but for the lag, of which the
// status has a bucket.
func (s sight) figuresOf(group string, segments int) (owned, lag, rate string) {
	var sum figures
	for _, p := range s.pods {
		if p.figures == nil {
			return "-", orDash(string(s.status(group).Lag)), "-"
		}
		f := p.figures[group]
		sum.claimed += f.claimed
		sum.rate += f.rate
		sum.lag = max(sum.lag, f.lag)
	}
	if s.podsErr != nil {
		return "-", orDash(string(s.status(group).Lag)), "-"
	}
	if len(s.pods) == 0 { // nobody knows how old what waits is
		return "0", orDash(string(s.status(group).Lag)), "-"
	}
	rate = fmt.Sprintf("%.1f/s", sum.rate)
	if status := s.status(group).Lag; sum.claimed == 0 || sum.claimed < segments && status != "" && status != v1alpha1.Lag0s {
		return fmt.Sprint(sum.claimed), orDash(string(status)), rate // workers know the lag only of what they own
	}
	return fmt.Sprint(sum.claimed), seconds(sum.lag), rate
}

func (s sight) status(group string) v1alpha1.GroupStatus {
	for _, g := range s.processor.Status.Groups {
		if g.Name == group {
			return g
		}
	}
	return v1alpha1.GroupStatus{}
}

// segmentsOf is how many segments a group has, such as 16, and 16->64 if the spec asks for another
// number.
func (s sight) segmentsOf(g v1alpha1.ProcessingGroup) string {
	if existing := s.status(g.Name).Segments; existing > 0 && existing != g.Segments {
		return fmt.Sprintf("%d->%d", existing, g.Segments)
	}
	return fmt.Sprint(g.Segments)
}

// stateOf is a group's state, how much of a replay it has done, and how far splitting or merging
// its segments has come.
func (s sight) stateOf(group string) string {
	status := s.status(group)
	text := orDash(string(status.State))
	if status.ReplayPercent != nil {
		text += fmt.Sprintf(" (%d%% replayed)", *status.ReplayPercent)
	}
	if r := status.Resegmenting; r != nil {
		what := "splits"
		if r.To < status.Segments {
			what = "merges"
		}
		text += fmt.Sprintf(" (%d of %d %s, %s)", r.Done, r.Total, what, r.Forecast(s.now))
	}
	return text
}

func seconds(lag float64) string {
	switch {
	case lag == 0:
		return "0s"
	case lag < 10:
		return fmt.Sprintf("%.1fs", lag)
	}
	return duration.HumanDuration(time.Duration(lag * float64(time.Second)))
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func owners(out io.Writer, s sight) {
	if len(s.pods) == 0 {
		return
	}
	table(out, "POD STATE GROUP SEGMENTS WHICH", func(row func(...any)) {
		for _, p := range s.pods {
			name, state := p.name, p.state
			for _, g := range s.processor.Spec.ProcessingGroups {
				row(name, state, g.Name, p.claimed(g.Name), orDash(ranges(p.of(g.Name))))
				name, state = "", ""
			}
		}
	})
}

func (p podSight) claimed(group string) string {
	if p.figures == nil {
		return "-"
	}
	return fmt.Sprint(p.figures[group].claimed)
}

// blocked lists segments that stand still. Their pods tell positions and attempts; the error itself is in the condition
// Degraded, further up.
func blocked(out io.Writer, s sight) {
	some := false
	for _, p := range s.pods {
		for _, h := range p.holdings {
			some = some || h.Blocked != nil
		}
	}
	if !some {
		return
	}
	table(out, "BLOCKED SEGMENT EVENT TYPE STREAM ATTEMPTS SINCE REASON POD", func(row func(...any)) {
		for _, p := range s.pods {
			for _, h := range p.holdings {
				if b := h.Blocked; b != nil {
					row(h.Group, h.Segment, number(b.Position), orDash(b.Type), orDash(b.Stream), number(int64(b.Attempts)),
						duration.HumanDuration(s.now.Sub(b.Since)), reason(b), p.name)
				}
			}
		}
	})
}

// reason is why a segment stands still, with what PostgreSQL names.
func reason(b *worker.Blocked) string {
	if details := strings.TrimSpace(b.SQLState + " " + b.Object); details != "" {
		return fmt.Sprintf("%s (%s)", b.Reason, details)
	}
	return b.Reason
}

// calls lists what has been running for more than a few seconds.
func calls(out io.Writer, s sight) {
	if !slices.ContainsFunc(s.pods, func(p podSight) bool { return len(p.calls) > 0 }) {
		return
	}
	table(out, "RUNNING GROUP SEGMENT EVENT TYPE STREAM ATTEMPT FOR POD", func(row func(...any)) {
		for _, p := range s.pods {
			for _, c := range p.calls {
				what, at, attempt := string(c.Kind), "-", "-"
				if c.Replay != "" {
					what += "(" + c.Replay + ")"
				}
				if c.Segment != nil {
					at = fmt.Sprint(*c.Segment)
				}
				if c.Attempt > 0 {
					attempt = fmt.Sprint(c.Attempt)
				}
				since := seconds(c.Running)
				if c.Abandoned {
					since += " (does not end)"
				}
				row(what, c.Group, at, number(c.Position), orDash(c.Type), orDash(c.Stream), attempt, since, p.name)
			}
		}
	})
}

func number(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// unseen says why figures are missing.
func unseen(out io.Writer, s sight) {
	var lines []string
	if s.operator.err != nil {
		lines = append(lines, fmt.Sprintf("operator: %v", s.operator.err))
	}
	if s.replaysErr != nil {
		lines = append(lines, fmt.Sprintf("replays: %v", s.replaysErr))
	}
	if s.podsErr != nil {
		lines = append(lines, fmt.Sprintf("pods: %v", s.podsErr))
	}
	for _, p := range s.pods {
		if p.err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", p.name, p.err))
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(out, "\nnot known (-):\n  %s\n", strings.Join(lines, "\n  "))
	}
}
