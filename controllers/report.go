package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	applyv1alpha1 "github.com/sluice-project/sluice/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// figuresEvery is the least time between two writes of a status in which nothing but figures has changed.
const figuresEvery = 10 * time.Second

// report writes the status, at most once, and tells of what has changed. It returns when to look again, zero for not.
func (r *Reconciler) report(ctx context.Context, s *scope) (time.Duration, error) {
	before, lastWrite := r.written.of(s.processor, s.processor.Status)
	s.processor.Status = before
	after := statusOf(s)
	if equality.Semantic.DeepEqual(before, after) {
		return 0, nil
	}
	if wait := figuresEvery - s.now.Sub(lastWrite); !urgent(before, after) && wait > 0 {
		return wait, nil
	}
	if err := r.writeStatus(ctx, s.processor, after); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	r.written.note(s.processor, after, s.now)
	r.tell(s.processor, before, after)
	return 0, nil
}

func (r *Reconciler) writeStatus(ctx context.Context, processor *v1alpha1.EventProcessor, status v1alpha1.EventProcessorStatus) error {
	data, err := json.Marshal(status)
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	configuration := applyv1alpha1.EventProcessorStatus()
	if err := json.Unmarshal(data, configuration); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	object := applyv1alpha1.EventProcessor(processor.Name, processor.Namespace).WithUID(processor.UID).WithStatus(configuration)
	if err := r.Client.Status().Apply(ctx, object, client.FieldOwner(FieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}
