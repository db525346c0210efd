package controllers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/controllers/desired"
)

// apply carries the decision out. What the API server refuses is noted in the scope; the error is for what may work soon.
func (r *Reconciler) apply(ctx context.Context, s *scope, d decision) error {
	key := client.ObjectKeyFromObject(s.processor)
	made := r.makeReplay(ctx, d.missing) // before the store is asked, so that the object is there when the replay runs
	if d.want != nil {
		r.Stores.Want(key, *d.want)
	}
	if !d.apply { // the objects wait, maybe for just this Replay
		if made != nil {
			return refused(s, made)
		}
		return nil
	}
	if err := r.applyCosts(ctx, s, d.pods); err != nil {
		return err
	}
	if err := r.applyObjects(ctx, s, d.pods.replicas); err != nil {
		return refused(s, err)
	}
	if err := cmp.Or(made, r.deleteReplays(ctx, s, d.prunableReplay)); err != nil {
		return refused(s, err)
	}
	return r.prune(ctx, s.processor.Namespace, d.prune)
}

// applyObjects applies the definition before the pods that read it.
func (r *Reconciler) applyObjects(ctx context.Context, s *scope, replicas *int32) error {
	configMap, err := desired.ConfigMap(s.desired)
	if err != nil {
		return err
	}
	deployment, err := desired.Deployment(s.desired, replicas)
	if err != nil {
		return err
	}
	budget := desired.PodDisruptionBudget(s.desired)
	for _, object := range []struct {
		kind          string
		configuration runtime.ApplyConfiguration
		meta          *metaac.ObjectMetaApplyConfiguration
	}{
		{"ConfigMap", configMap, configMap.ObjectMetaApplyConfiguration},
		{"PodDisruptionBudget", budget, budget.ObjectMetaApplyConfiguration},
		{"Deployment", deployment, deployment.ObjectMetaApplyConfiguration},
	} {
		generation, err := r.applyObject(ctx, s, object.kind, object.configuration, object.meta)
		if err != nil {
			return err
		}
		if object.kind == "Deployment" {
			s.applied = generation
		}
	}
	return nil
}

// applyObject applies an object unless it is as it was when the same was applied last, and returns its generation.
func (r *Reconciler) applyObject(ctx context.Context, s *scope, kind string, configuration runtime.ApplyConfiguration, meta *metaac.ObjectMetaApplyConfiguration) (int64, error) {
	text, err := json.Marshal(configuration)
	if err != nil {
		return 0, fmt.Errorf("writing the %s: %w", kind, err)
	}
	key := appliedKey{s.processor.UID, kind}
	generation, there := s.generations[kind]
	if last, known := r.applied.of(key); known && there && last.text == string(text) && last.generation == generation && s.now.Sub(last.at) < applyAgain {
		return generation, nil
	}
	if err := r.Client.Apply(ctx, configuration, client.FieldOwner(FieldOwner), client.ForceOwnership); err != nil {
		return 0, fmt.Errorf("applying the %s: %w", kind, err)
	}
	generation = ptr.Deref(meta.Generation, 0)
	r.applied.note(key, appliedState{string(text), generation, s.now})
	return generation, nil
}

// applyAgain is when an object is applied again although nothing is known to have changed: not all drift raises the generation.
const applyAgain = 10 * time.Minute

// appliedObjects remembers what was applied last, so that a reconcile that changes nothing writes nothing.
type appliedObjects struct {
	mu    sync.Mutex
	known map[appliedKey]appliedState
}

type appliedKey struct {
	processor types.UID
	kind      string
}

type appliedState struct {
	text       string
	generation int64
	at         time.Time
}

func (a *appliedObjects) of(key appliedKey) (appliedState, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	state, known := a.known[key]
	return state, known
}

func (a *appliedObjects) note(key appliedKey, state appliedState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[appliedKey]appliedState{}
	}
	for other, of := range a.known {
		if state.at.Sub(of.at) > 2*applyAgain { // of processors that are gone
			delete(a.known, other)
		}
	}
	a.known[key] = state
}

// refused notes what the API server has against an object. Where the spec is wrong, trying again does not help.
func refused(s *scope, err error) error {
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
		s.invalid = err.Error()
		return nil
	}
	s.refused = err.Error()
	return err
}

func (r *Reconciler) prune(ctx context.Context, namespace string, names []string) error {
	for _, name := range names {
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if err := r.Client.Delete(ctx, configMap); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting ConfigMap %s: %w", name, err)
		}
	}
	return nil
}
