package controllers

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
)

// Finalizer keeps a processor with deletionPolicy Delete until its rows are dropped.
const Finalizer = "sluice.dev/store"

// dropPause between two attempts to drop a processor's rows.
const dropPause = 5 * time.Second

// finalize sets the finalizer where it is due, and only there, before anything is written to the store.
func (r *Reconciler) finalize(ctx context.Context, processor *v1alpha1.EventProcessor) error {
	before := processor.DeepCopy()
	var changed bool
	if processor.Spec.DeletionPolicy == v1alpha1.DeletionPolicyDelete {
		changed = controllerutil.AddFinalizer(processor, Finalizer)
	} else {
		changed = controllerutil.RemoveFinalizer(processor, Finalizer)
	}
	if !changed {
		return nil
	}
	if err := r.Client.Patch(ctx, processor, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("setting the finalizer: %w", err)
	}
	return nil
}

// delete lets a processor go: pods first, then rows, then the finalizer. Without our finalizer all is left to the
// garbage collector. It returns when to look again, zero for never.
func (r *Reconciler) delete(ctx context.Context, s *scope) (time.Duration, error) {
	r.Stores.Forget(client.ObjectKeyFromObject(s.processor))
	if !controllerutil.ContainsFinalizer(s.processor, Finalizer) {
		return 0, nil
	}
	overdue := s.now.Sub(s.processor.DeletionTimestamp.Time) >= r.GiveUpAfter
	if err := r.stopPods(ctx, s); err != nil {
		return 0, err
	}
	if len(s.pods) > 0 && !overdue {
		s.leaving = "waiting for " + counted(len(s.pods), "pod") + " to end"
		return dropPause, nil
	}
	if err := r.Stores.Drop(ctx, *wantedOf(s)); err != nil {
		s.leaving = "the rows in the store cannot be dropped: " + err.Error()
		if !overdue {
			return dropPause, nil
		}
		r.Events.Eventf(s.processor, nil, "Warning", "RowsLeft", "Delete", "%s",
			short(fmt.Sprintf("gave up after %s, the rows stay: %s", r.GiveUpAfter, s.leaving)))
	}
	return 0, r.release(ctx, s.processor)
}

func (r *Reconciler) stopPods(ctx context.Context, s *scope) error {
	if s.deployment == nil || !s.deployment.DeletionTimestamp.IsZero() || !desired.IsControlledBy(s.deployment, s.processor) {
		return nil
	}
	if err := r.Client.Delete(ctx, s.deployment, client.PropagationPolicy("Background")); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting the Deployment: %w", err)
	}
	return nil
}

func (r *Reconciler) release(ctx context.Context, processor *v1alpha1.EventProcessor) error {
	released := processor.DeepCopy()
	controllerutil.RemoveFinalizer(released, Finalizer)
	err := r.Client.Patch(ctx, released, client.MergeFromWithOptions(processor, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the finalizer: %w", err)
	}
	processor.Finalizers = released.Finalizers
	return nil
}
