package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	applyv1alpha1 "github.com/sluice-project/sluice/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// reportReplays writes the status of each Replay of the scope that has news. It returns when to look again, zero for not.
func (r *Reconciler) reportReplays(ctx context.Context, s *scope) (again time.Duration, all error) {
	for i := range s.replays {
		replay := &s.replays[i]
		if !replay.DeletionTimestamp.IsZero() {
			continue
		}
		wait, err := r.reportReplay(ctx, replay, s)
		again = soonest(again, wait)
		all = errors.Join(all, err)
	}
	return again, all
}

func (r *Reconciler) reportReplay(ctx context.Context, replay *v1alpha1.Replay, s *scope) (time.Duration, error) {
	before, lastWrite := r.writtenReplays.of(replay, replay.Status)
	replay.Status = before
	row := s.row(replay.ID())
	after := replayStatus(replay, s, row, r.paces.of(replay.UID, row, s.now))
	if equality.Semantic.DeepEqual(before, after) {
		return 0, nil
	}
	if wait := figuresEvery - s.now.Sub(lastWrite); !urgentReplay(before, after) && wait > 0 {
		return wait, nil
	}
	data, err := json.Marshal(after)
	if err != nil {
		return 0, fmt.Errorf("writing the status of Replay %s: %w", replay.Name, err)
	}
	configuration := applyv1alpha1.ReplayStatus()
	if err := json.Unmarshal(data, configuration); err != nil {
		return 0, fmt.Errorf("writing the status of Replay %s: %w", replay.Name, err)
	}
	object := applyv1alpha1.Replay(replay.Name, replay.Namespace).WithUID(replay.UID).WithStatus(configuration)
	if err := r.Client.Status().Apply(ctx, object, client.FieldOwner(FieldOwner), client.ForceOwnership); err != nil {
		return 0, client.IgnoreNotFound(fmt.Errorf("writing the status of Replay %s: %w", replay.Name, err))
	}
	r.writtenReplays.note(replay, after, s.now)
	for _, m := range replayNews(before, after) {
		r.Events.Eventf(replay, nil, m.kind, m.reason, "Replay", "%s", note(m.note))
	}
	return 0, nil
}

// urgentReplay reports whether two statuses differ in more than figures.
func urgentReplay(before, after v1alpha1.ReplayStatus) bool {
	for _, s := range []*v1alpha1.ReplayStatus{&before, &after} {
		s.Events, s.ETA = v1alpha1.ReplayEvents{}, nil // progress goes in steps, so it changes seldom
	}
	return !equality.Semantic.DeepEqual(before, after)
}

// replayNews are what is worth an event: that a replay is accepted or refused, waits, runs, and how it ends. Each reason is told once.
func replayNews(before, after v1alpha1.ReplayStatus) []message {
	var all []message
	told := map[string]bool{}
	for _, name := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionFailed, v1alpha1.ConditionCancelled, v1alpha1.ConditionComplete} {
		was, is := meta.FindStatusCondition(before.Conditions, name), meta.FindStatusCondition(after.Conditions, name)
		if is == nil || told[is.Reason] || was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		if kind := replayNewsKind(is, after); kind != "" {
			told[is.Reason] = true
			all = append(all, message{kind, is.Reason, is.Message})
		}
	}
	return all
}

// replayNewsKind is the kind of event that a condition which is new is worth; empty for none.
func replayNewsKind(is *metav1.Condition, status v1alpha1.ReplayStatus) string {
	no := is.Status == metav1.ConditionFalse
	switch is.Type {
	case v1alpha1.ConditionAccepted, v1alpha1.ConditionCancelled:
		if no {
			return corev1.EventTypeWarning
		}
		if is.Type == v1alpha1.ConditionAccepted && (status.ResetAt != nil || ended(status)) {
			return "" // long ago
		}
	case v1alpha1.ConditionFailed:
		if is.Reason != v1alpha1.ReasonCancelled {
			return corev1.EventTypeWarning
		}
	case v1alpha1.ConditionComplete:
		if is.Status == metav1.ConditionUnknown || is.Reason == v1alpha1.ReasonPending {
			return ""
		}
	}
	return corev1.EventTypeNormal
}
