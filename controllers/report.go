package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	applyv1alpha1 "github.com/sluice-project/sluice/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// figuresEvery is the least time between two writes of a status in which nothing but figures has changed.
const figuresEvery = 10 * time.Second

// report writes the status, at most once, and tells of what has changed. It returns when to look again, zero for not.
func (r *Reconciler) report(ctx context.Context, s *scope) (time.Duration, error) {
	key := client.ObjectKeyFromObject(s.processor)
	before, lastWrite := r.written.of(key, s.processor)
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
	r.written.note(key, s.processor, after, s.now)
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

// writtenStatuses remembers the last write of each object: the cache may not have heard of it yet.
type writtenStatuses struct {
	mu    sync.Mutex
	known map[types.NamespacedName]writtenStatus
}

type writtenStatus struct {
	uid     types.UID
	onto    string // the resource version that the cache had
	status  v1alpha1.EventProcessorStatus
	written time.Time
}

// of is the status as it was last written, and when that was.
func (w *writtenStatuses) of(key types.NamespacedName, processor *v1alpha1.EventProcessor) (v1alpha1.EventProcessorStatus, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.known[key]
	switch {
	case !known || last.uid != processor.UID:
		return processor.Status, time.Time{}
	case last.onto == processor.ResourceVersion:
		return *last.status.DeepCopy(), last.written
	}
	return processor.Status, last.written
}

func (w *writtenStatuses) note(key types.NamespacedName, processor *v1alpha1.EventProcessor, status v1alpha1.EventProcessorStatus, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		w.known = map[types.NamespacedName]writtenStatus{}
	}
	w.known[key] = writtenStatus{processor.UID, processor.ResourceVersion, *status.DeepCopy(), now}
}

func (w *writtenStatuses) forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.known, key)
}
