package controllers

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
)

// workers that reconcile at a time.
const workers = 4

// setup has the manager call the reconciler for what concerns it. Status that nobody but the operator writes does not.
func (r *Reconciler) setup(manager ctrl.Manager, observed *notices) error {
	spec := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
	}})
	err := ctrl.NewControllerManagedBy(manager).
		Named("eventprocessor").
		For(&v1alpha1.EventProcessor{}, builder.WithPredicates(spec)).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&policyv1.PodDisruptionBudget{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, r.pods()).
		Watches(&v1alpha1.Replay{}, handler.EnqueueRequestsFromMapFunc(processorOfReplay), builder.WithPredicates(spec)).
		WatchesRawSource(source.Func(observed.start)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting the controller up: %w", err)
	}
	return nil
}

// pods wakes the planner at once when a pod comes, changes or goes, and reconciles its processor.
func (r *Reconciler) pods() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	changed := func(pod client.Object, q queue) {
		key := processorOf(pod)
		r.Stores.Wake(key)
		q.Add(reconcile.Request{NamespacedName: key})
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { changed(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { changed(e.ObjectNew, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			r.Stores.PodGone(processorOf(e.Object), e.Object.GetName())
			changed(e.Object, q)
		},
	}
}

func processorOf(object client.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetLabels()[desired.LabelProcessor]}
}

// processorOfReplay is the one that a Replay is for.
func processorOfReplay(_ context.Context, object client.Object) []reconcile.Request {
	replay, ok := object.(*v1alpha1.Replay)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: replay.Namespace, Name: replay.Spec.ProcessorName}}}
}

// notices are the processors of which the stores have something new to tell.
type notices struct {
	mu      sync.Mutex
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
	waiting map[types.NamespacedName]struct{} // until there is a queue
}

func (n *notices) start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queue = queue
	for key := range n.waiting {
		queue.Add(reconcile.Request{NamespacedName: key})
	}
	n.waiting = nil
	return nil
}

// add never blocks: a queue holds each processor once.
func (n *notices) add(key types.NamespacedName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue != nil {
		n.queue.Add(reconcile.Request{NamespacedName: key})
		return
	}
	if n.waiting == nil {
		n.waiting = map[types.NamespacedName]struct{}{}
	}
	n.waiting[key] = struct{}{}
}
