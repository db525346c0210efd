package controllers

import (
	"cmp"
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
)

// Reconciler makes EventProcessors true.
type Reconciler struct {
	Client client.Client
	Reader client.Reader // without a cache
	Events events.EventRecorder
	Stores *stores.Stores
	Clock  clock.PassiveClock
	// Cluster names the Kubernetes cluster in stores.
	Cluster string
	// Installation is the operator's ID in stores.
	Installation string
	// Image of workers whose template has none.
	Image string
	// GiveUpAfter bounds a deletion that waits for its store.
	GiveUpAfter time.Duration
	// Grace is how long an outage of the store does not count for conditions.
	Grace time.Duration

	written        writtenStatuses[v1alpha1.EventProcessorStatus]
	writtenReplays writtenStatuses[v1alpha1.ReplayStatus]
	paces          paces
	applied        appliedObjects
	leaving        reasons // of deletions
}

// afterConflict is when an object is looked at again that somebody else was changing: the cache has it by then.
const afterConflict = 200 * time.Millisecond

// Reconcile brings one EventProcessor closer to its spec.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	result, err := r.reconcile(ctx, request)
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: afterConflict}, nil
	}
	return result, err
}

func (r *Reconciler) reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	processor := &v1alpha1.EventProcessor{}
	if err := r.Client.Get(ctx, request.NamespacedName, processor); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, r.gone(ctx, request.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	if !processor.DeletionTimestamp.IsZero() {
		return r.depart(ctx, processor)
	}
	if err := r.finalize(ctx, processor); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	scope, err := r.observe(ctx, processor)
	if err != nil {
		return ctrl.Result{}, err
	}
	applied := r.apply(ctx, scope, decide(scope))
	again, err := r.report(ctx, scope)
	later, told := r.reportReplays(ctx, scope)
	return ctrl.Result{RequeueAfter: soonest(again, later, graceLeft(scope), sourceGraceLeft(scope))}, cmp.Or(applied, err, told)
}

// soonest is the shortest of some waits, of which 0 is none.
func soonest(waits ...time.Duration) (least time.Duration) {
	for _, wait := range waits {
		if wait > 0 && (least == 0 || wait < least) {
			least = wait
		}
	}
	return least
}

// gone forgets a processor that is no more, and tells Replays that ask for it.
func (r *Reconciler) gone(ctx context.Context, key client.ObjectKey) error {
	r.Stores.Forget(key)
	replays, err := r.replaysOf(ctx, key)
	if err != nil {
		return err
	}
	_, err = r.reportReplays(ctx, &scope{now: r.Clock.Now(), replays: replays})
	return err
}
