package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/controllers/desired"
)

// apply carries the decision out. What the API server refuses is noted in the scope; the error is for what may work soon.
func (r *Reconciler) apply(ctx context.Context, s *scope, d decision) error {
	key := client.ObjectKeyFromObject(s.processor)
	if d.want != nil {
		r.Stores.Want(key, *d.want)
	}
	if !d.apply {
		return nil
	}
	if err := r.applyCosts(ctx, s, d.pods); err != nil {
		return err
	}
	if err := r.applyObjects(ctx, s, d.pods.replicas); err != nil {
		return refused(s, err)
	}
	if err := r.applyReplays(ctx, s, d.missing, d.prunableReplay); err != nil {
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
	for _, object := range []struct {
		kind          string
		configuration runtime.ApplyConfiguration
	}{
		{"ConfigMap", configMap},
		{"PodDisruptionBudget", desired.PodDisruptionBudget(s.desired)},
		{"Deployment", deployment},
	} {
		if err := r.Client.Apply(ctx, object.configuration, client.FieldOwner(FieldOwner), client.ForceOwnership); err != nil {
			return fmt.Errorf("applying the %s: %w", object.kind, err)
		}
	}
	if deployment.ObjectMetaApplyConfiguration != nil && deployment.Generation != nil {
		s.applied = *deployment.Generation
	}
	return nil
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
