package controllers

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/definition"
)

// observe looks at all that matters to the processor.
func (r *Reconciler) observe(ctx context.Context, processor *v1alpha1.EventProcessor) (*scope, error) {
	s := &scope{now: r.Clock.Now(), grace: r.Grace, processor: processor, store: r.Stores.Observe(client.ObjectKeyFromObject(processor))}
	var err error
	if s.desired, err = desired.New(processor, r.Cluster, r.Image); err != nil {
		return nil, err
	}
	s.desired.Installation = r.Installation
	s.invalid = invalidity(s.desired)
	if err := r.list(ctx, s); err != nil {
		return nil, err
	}
	return s, r.find(ctx, s)
}

// invalidity says why a spec cannot be carried out; empty where it can. The API server has refused most of that.
func invalidity(p desired.Processor) string {
	if problems := p.Spec.Validate(); len(problems) > 0 {
		return (&definition.InvalidError{Problems: problems}).Error()
	}
	if _, err := desired.ConfigMap(p); err != nil {
		return err.Error()
	}
	return ""
}

func (r *Reconciler) list(ctx context.Context, s *scope) error {
	ours := []client.ListOption{client.InNamespace(s.processor.Namespace), client.MatchingLabels(s.desired.Selector())}
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, ours...); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	s.pods = pods.Items
	var configMaps corev1.ConfigMapList
	if err := r.Client.List(ctx, &configMaps, ours...); err != nil {
		return fmt.Errorf("listing ConfigMaps: %w", err)
	}
	for _, c := range configMaps.Items {
		if desired.IsControlledBy(&c, s.processor) {
			s.configMaps = append(s.configMaps, c)
		}
	}
	var err error
	s.replays, err = r.replaysOf(ctx, client.ObjectKeyFromObject(s.processor))
	return err
}

// find looks for the objects that are going to be applied, and for others of their names.
func (r *Reconciler) find(ctx context.Context, s *scope) error {
	deployment := &appsv1.Deployment{}
	s.generations = map[string]int64{}
	for _, wanted := range []struct {
		kind, name string
		object     client.Object
	}{
		{"Deployment", s.desired.DeploymentName(), deployment},
		{"PodDisruptionBudget", s.desired.DeploymentName(), &policyv1.PodDisruptionBudget{}},
		{"ConfigMap", s.desired.ConfigMapName(), &corev1.ConfigMap{}},
	} {
		there, err := r.get(ctx, client.ObjectKey{Namespace: s.processor.Namespace, Name: wanted.name}, wanted.object)
		if err != nil {
			return fmt.Errorf("looking for %s %s: %w", wanted.kind, wanted.name, err)
		}
		switch {
		case there && !desired.IsControlledBy(wanted.object, s.processor):
			s.foreign = append(s.foreign, wanted.kind+" "+wanted.name)
		case there && wanted.object == client.Object(deployment):
			s.deployment = deployment
		}
		if there {
			s.generations[wanted.kind] = wanted.object.GetGeneration()
		}
	}
	return nil
}

// get asks the cache, and then the API server: the cache has only what bears our label, or may not have heard yet.
func (r *Reconciler) get(ctx context.Context, key client.ObjectKey, object client.Object) (bool, error) {
	err := r.Client.Get(ctx, key, object)
	if apierrors.IsNotFound(err) {
		err = r.Reader.Get(ctx, key, object)
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
