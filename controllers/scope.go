package controllers

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/controllers/stores"
)

// scope is all that one reconcile has observed. Decisions are made from it alone.
type scope struct {
	now         time.Time
	grace       time.Duration // for which an outage of the store does not count
	processor   *v1alpha1.EventProcessor
	desired     desired.Processor
	deployment  *appsv1.Deployment // nil where there is none, or a foreign one
	configMaps  []corev1.ConfigMap // the processor's
	generations map[string]int64   // of the objects that are there, by kind
	pods        []corev1.Pod
	replays     []v1alpha1.Replay // of the processor, the oldest first
	foreign     []string          // objects in the way, such as "Deployment payments"
	invalid     string            // why the spec cannot be carried out; empty where it can
	store       stores.Observation

	// Found out while applying.
	refused string // by the API server, for now
	applied int64  // the Deployment's generation
	leaving string // what the deletion waits for
}

func (s *scope) deleting() bool { return !s.processor.DeletionTimestamp.IsZero() }

// replicas that are wanted.
func (s *scope) replicas() int32 { return *s.desired.Spec.Replicas }

// condition of the status as it was last written.
func (s *scope) was(condition string) string {
	for _, c := range s.processor.Status.Conditions {
		if c.Type == condition {
			return string(c.Status)
		}
	}
	return ""
}

// message that a condition had when the status was last written, where it had the reason.
func (s *scope) message(condition, reason string) string {
	for _, c := range s.processor.Status.Conditions {
		if c.Type == condition && c.Reason == reason {
			return c.Message
		}
	}
	return ""
}

// counted writes "1 pod", "2 pods".
func counted(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
