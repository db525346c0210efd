package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
)

// Finalizer keeps a processor with deletionPolicy Delete until its rows are dropped.
const Finalizer = "sluice.dev/store"

const (
	// lookAgain is when a deletion is looked at again, where nothing tells of its progress.
	lookAgain = 5 * time.Second
	// secretAwaited is how long a deletion waits for a Secret that it needs and that is missing or wrong.
	secretAwaited = 30 * time.Second
)

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

// depart lets a processor go: pods first, then rows, then the finalizer. Without our finalizer all is left to the garbage
// collector. The time limit goes before everything that may fail, so that every deletion ends.
func (r *Reconciler) depart(ctx context.Context, processor *v1alpha1.EventProcessor) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(processor)
	if !controllerutil.ContainsFinalizer(processor, Finalizer) {
		r.Stores.Forget(key)
		return ctrl.Result{}, nil
	}
	left := r.GiveUpAfter - r.Clock.Since(processor.DeletionTimestamp.Time)
	if left <= 0 {
		return ctrl.Result{}, r.giveUp(ctx, processor, or(r.leaving.of(processor.UID), "the operator could not begin"))
	}
	s, err := r.observe(ctx, processor)
	if err != nil {
		s = nil
	} else {
		err = r.carryOn(ctx, s)
	}
	switch stuck := (*stuckError)(nil); {
	case errors.As(err, &stuck) && stuck.forGood:
		return ctrl.Result{}, r.giveUp(ctx, processor, stuck.Error())
	case err == nil:
		return ctrl.Result{}, r.release(ctx, processor)
	}
	// An error here is no reconcile's: what is tried ever more rarely would outlast the limit.
	r.leaving.note(processor.UID, err.Error())
	if s != nil {
		s.leaving = err.Error()
		if _, err := r.report(ctx, s); err != nil {
			log.FromContext(ctx).Error(err, "The status of a processor that is being deleted cannot be written")
		}
	}
	return ctrl.Result{RequeueAfter: min(lookAgain, left)}, nil
}

// stuckError says what a deletion waits for.
type stuckError struct {
	text    string
	forGood bool // waiting does not help
}

func (e *stuckError) Error() string { return e.text }

// carryOn does what a deletion needs next; no error says that it is done. Until the pods have ended the store is planned as ever, so
// that segments are handed over, and the session that drops the rows is open before Secrets go.
func (r *Reconciler) carryOn(ctx context.Context, s *scope) error {
	key := client.ObjectKeyFromObject(s.processor)
	if d := decide(s); d.want != nil && len(s.pods) > 0 {
		r.Stores.Want(key, *d.want)
	}
	if err := r.stopPods(ctx, s); err != nil {
		return err
	}
	if len(s.pods) > 0 {
		return &stuckError{text: "waiting for " + counted(len(s.pods), "pod") + " to end"}
	}
	want := wantedOf(s)
	if want.StoreID = cmp.Or(want.StoreID, s.store.StoreID); want.StoreID == "" {
		return nil // it has never had a row
	}
	want.Drop = true
	r.Stores.Want(key, *want)
	observed := r.Stores.Observe(key)
	if observed.Dropped {
		return nil
	}
	return r.undropped(ctx, s, observed.Problem)
}

// undropped says why there are rows still.
func (r *Reconciler) undropped(ctx context.Context, s *scope, problem *stores.Problem) error {
	if problem == nil {
		return &stuckError{text: "the rows in the store are being dropped"}
	}
	stuck := &stuckError{text: fmt.Sprintf("the rows in the store cannot be dropped: %s: %s", problem.Reason, problem.Message)}
	if problem.NeedsSecret() {
		terminating, err := r.terminating(ctx, s.processor.Namespace)
		if err != nil {
			return err
		}
		stuck.forGood = terminating || s.now.Sub(s.processor.DeletionTimestamp.Time) >= secretAwaited
	}
	return stuck
}

// terminating reports whether a namespace is being deleted: nothing can be created there any more.
func (r *Reconciler) terminating(ctx context.Context, name string) (bool, error) {
	var namespace corev1.Namespace
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: name}, &namespace); err != nil {
		return false, fmt.Errorf("looking whether namespace %s is being deleted: %w", name, err)
	}
	return !namespace.DeletionTimestamp.IsZero(), nil
}

// giveUp lets a processor go whose rows stay. A namespace that is being deleted takes no events, so there is one about the
// namespace too, and a line in the log.
func (r *Reconciler) giveUp(ctx context.Context, processor *v1alpha1.EventProcessor, why string) error {
	after := r.Clock.Since(processor.DeletionTimestamp.Time).Round(time.Second)
	if err := r.release(ctx, processor); err != nil {
		return err
	}
	text := fmt.Sprintf("gave up after %s, the rows of %s stay in store %s: %s", after, desired.Processor{Object: processor, Cluster: r.Cluster}.StoreName(), or(processor.Status.StoreID, "(unknown)"), why)
	log.FromContext(ctx).Error(nil, "The rows of a deleted processor stay", "message", text)
	namespace := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: processor.Namespace}}
	for _, about := range []runtime.Object{processor, namespace} {
		r.Events.Eventf(about, nil, corev1.EventTypeWarning, "RowsLeft", "Delete", "%s", note(text))
	}
	return nil
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
	r.Stores.Forget(client.ObjectKeyFromObject(processor))
	r.leaving.forget(processor.UID)
	return nil
}

// reasons are why deletions have not ended yet, for the report of those that never do.
type reasons struct {
	mu    sync.Mutex
	known map[types.UID]string
}

func (r *reasons) of(processor types.UID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[processor]
}

func (r *reasons) note(processor types.UID, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[types.UID]string{}
	}
	r.known[processor] = reason
}

func (r *reasons) forget(processor types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, processor)
}
