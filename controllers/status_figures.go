package controllers

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
)

// figures sets what is counted. While the store is not read, what was last seen stays, except for
// the lag and the rate of splits and merges, which are unknown.
func figures(s *scope, status *v1alpha1.EventProcessorStatus) {
	s = withGrace(s)
	status.Segments.Desired = desiredSegments(s)
	if s.store.Seen {
		setFigures(s, status)
	}
	if status.AsOf = asOf(s, len(status.Groups) > 0); status.AsOf != nil {
		status.Lag = v1alpha1.LagUnknown
		for i := range status.Groups {
			status.Groups[i].Lag = v1alpha1.LagUnknown
			if r := status.Groups[i].Resegmenting; r != nil {
				r.PerMinute, r.ETA = 0, nil
			}
		}
	}
	status.Segments.Summary = segmentsText(status)
}

// segmentsText is owned/existing segments, such as 16/16, and 16/16->64 if the spec asks for another
// number than exists.
func segmentsText(status *v1alpha1.EventProcessorStatus) string {
	var existing int32
	for _, group := range status.Groups {
		existing += group.Segments
	}
	owned, desired := status.Segments.Owned, status.Segments.Desired
	if existing == 0 || existing == desired {
		return fmt.Sprintf("%d/%d", owned, desired)
	}
	return fmt.Sprintf("%d/%d->%d", owned, existing, desired)
}

// resegmenting is how far a group has come with splitting or merging its segments; nil if it has as
// many as the spec asks for. The total comes from the status that was written last, so that it
// survives a restart of the operator.
func resegmenting(s *scope, group stores.Group) *v1alpha1.Resegmenting {
	left := int32(group.StepsLeft())
	if left == 0 {
		return nil
	}
	r := &v1alpha1.Resegmenting{To: int32(group.Wanted), Total: left}
	for _, before := range s.processor.Status.Groups {
		switch was := before.Resegmenting; {
		case before.Name != group.Name:
		case was == nil && before.Segments > 0:
			r.Total = max(left, r.To-before.Segments, before.Segments-r.To)
		case was != nil && was.To == r.To:
			r.Total = max(left, was.Total)
		}
	}
	r.Done = r.Total - left
	if pace := group.Pace; pace.PerMinute > 0 {
		r.PerMinute = int32(pace.PerMinute)
		r.ETA = ptr.To(metav1.NewTime(pace.At.Add(time.Duration(left) * time.Minute / time.Duration(pace.PerMinute)).UTC().Truncate(time.Second)))
	}
	return r
}

// asOf is since when the operator has not read the store; nil while it reads it. A new operator
// keeps what was written until it has read the store for the first time. A processor that has no
// figures yet has none of an earlier time, unless the store cannot be reached.
func asOf(s *scope, figures bool) *metav1.Time {
	if s.unseen() {
		return s.processor.Status.AsOf
	}
	if p := s.store.Problem; p != nil && (p.Outage() || p.Blind && figures) {
		if before := s.processor.Status.AsOf; before != nil {
			return before
		}
		return ptr.To(metav1.NewTime(p.Since.Truncate(time.Second)))
	}
	return nil
}

func setFigures(s *scope, status *v1alpha1.EventProcessorStatus) {
	status.Segments.Owned, status.Segments.Moving, status.Segments.Unowned = 0, 0, 0
	status.Groups, status.Lag = nil, ""
	var lags []stores.Lag
	for _, group := range s.store.Facts.Groups {
		status.Segments.Owned += int32(group.Owned)
		status.Segments.Moving += int32(group.Moving)
		status.Segments.Unowned += int32(group.Unowned())
		of := v1alpha1.GroupStatus{Name: group.Name, Segments: int32(group.Segments), State: groupState(s, group), Lag: lagText(group.Lag)}
		of.Resegmenting = resegmenting(s, group)
		if row := runningReplay(s, group.Name); row != nil {
			of.ReplayPercent = ptr.To(percent(row))
		}
		status.Groups = append(status.Groups, of)
		lags = append(lags, group.Lag)
	}
	switch {
	case slices.Contains(lags, stores.LagUnknown):
		status.Lag = v1alpha1.LagUnknown
	case len(lags) > 0:
		status.Lag = lagText(slices.Max(lags))
	}
	status.Runtime = versions(s.store.Facts.Workers)
	status.OpenWriters = openWriters(s)
}

func openWriters(s *scope) (open []v1alpha1.OpenWriter) {
	for _, w := range s.store.Facts.OpenWriters {
		open = append(open, v1alpha1.OpenWriter{PID: w.PID, Prepared: w.Prepared, Application: w.Application, User: w.User,
			Since: metav1.NewTime(w.Since.Truncate(time.Second))})
	}
	return open
}

func desiredSegments(s *scope) int32 {
	var sum int32
	for _, group := range s.desired.Spec.ProcessingGroups {
		sum += group.Segments
	}
	return sum
}

func groupState(s *scope, group stores.Group) v1alpha1.GroupState {
	paused := s.processor.Spec.DesiredState == v1alpha1.DesiredStatePaused ||
		slices.ContainsFunc(s.processor.Spec.ProcessingGroups, func(g v1alpha1.ProcessingGroup) bool {
			return g.Name == group.Name && g.DesiredState == v1alpha1.DesiredStatePaused
		})
	switch {
	case resetOf(s, group.Name) != nil:
		return v1alpha1.GroupResetting
	case paused:
		return v1alpha1.GroupPaused
	case group.Overdue > 0 || s.replicas() == 0 && group.Unowned() > 0:
		return v1alpha1.GroupUnowned
	case group.Blocked > 0, group.Broken != "":
		return v1alpha1.GroupBlocked
	case runningReplay(s, group.Name) != nil:
		return v1alpha1.GroupReplaying
	}
	return v1alpha1.GroupRunning
}

func lagText(lag stores.Lag) v1alpha1.Lag {
	switch lag {
	case stores.LagUnknown:
		return v1alpha1.LagUnknown
	case stores.LagOverHour:
		return v1alpha1.LagOver1h
	case 0:
		return v1alpha1.Lag0s
	case 1:
		return v1alpha1.LagUnder1s
	case 10:
		return v1alpha1.LagUnder10s
	case 60:
		return v1alpha1.LagUnder1m
	case 600:
		return v1alpha1.LagUnder10m
	}
	return v1alpha1.LagUnder1h
}

// versions is the range of the workers' versions. One that is none, such as a development build, counts as the oldest.
func versions(workers []stores.Worker) v1alpha1.RuntimeVersions {
	var found []string
	for _, w := range workers {
		if w.Version != "" && !slices.Contains(found, w.Version) {
			found = append(found, w.Version)
		}
	}
	if len(found) == 0 {
		return v1alpha1.RuntimeVersions{}
	}
	slices.SortFunc(found, compareVersions)
	return v1alpha1.RuntimeVersions{Min: found[0], Max: found[len(found)-1]}
}

func compareVersions(a, b string) int {
	x, badA := version.ParseGeneric(a)
	y, badB := version.ParseGeneric(b)
	switch {
	case badA != nil && badB != nil:
		return slices.Compare([]byte(a), []byte(b))
	case badA != nil:
		return -1
	case badB != nil:
		return 1
	case x.LessThan(y):
		return -1
	case y.LessThan(x):
		return 1
	}
	return 0
}
