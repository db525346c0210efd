package kubectl

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// openReplays are a processor's Replays that have not ended, the oldest first.
func (c *cluster) openReplays(ctx context.Context, p v1alpha1.EventProcessor) ([]v1alpha1.Replay, error) {
	var list v1alpha1.ReplayList
	if err := c.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
		return nil, err
	}
	open := slices.DeleteFunc(list.Items, func(r v1alpha1.Replay) bool {
		ended := meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionComplete) ||
			meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionFailed)
		return r.Spec.ProcessorName != p.Name || ended
	})
	slices.SortFunc(open, func(a, b v1alpha1.Replay) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return open, nil
}

// replays lists those that have not ended: how far they are, or what they wait for.
func replays(out io.Writer, s sight) {
	if len(s.replays) == 0 {
		return
	}
	table(out, "REPLAY GROUPS PROGRESS LEFT STATE", func(row func(...any)) {
		for _, r := range s.replays {
			progress, left, state := "-", "-", "-"
			if p := r.Status.Progress; p != nil {
				progress = fmt.Sprintf("%d%% of %d", *p, r.Status.Events.Total)
			}
			if eta := r.Status.ETA; eta != nil {
				left = duration.HumanDuration(max(eta.Sub(s.now), 0))
			}
			if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionComplete); c != nil {
				state = c.Reason
			}
			row(r.ID(), strings.Join(r.Spec.Groups, ","), progress, left, state)
		}
	})
}
