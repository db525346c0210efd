package controllers

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
)

// rolloutOf says why the pods are not yet what the spec asks for; nil where they are.
func rolloutOf(s *scope) *verdict {
	d := s.deployment
	if d == nil || d.Status.ObservedGeneration < max(s.applied, d.Generation) {
		return &verdict{reason: v1alpha1.ReasonProgressing, message: "waiting for the Deployment's controller to look at the newest version"}
	}
	status, wanted := d.Status, s.replicas()
	trouble := podTrouble(s.pods, s.desired.ID)
	if v := quarantine(s); v != nil {
		return v
	}
	if deadlineExceeded(d) {
		return &verdict{reason: v1alpha1.ReasonRolloutFailed, message: or(trouble, "the pods of the wanted definition did not become ready in time"), stalled: true}
	}
	old := status.Replicas - status.UpdatedReplicas
	if status.Replicas == wanted && old == 0 && status.AvailableReplicas == wanted {
		return nil
	}
	wait := setupWait(s)
	progress := fmt.Sprintf("%d of %s are of the wanted definition and ready", min(status.UpdatedReplicas, status.AvailableReplicas), counted(int(wanted), "pod"))
	switch {
	case trouble != "":
		return &verdict{reason: v1alpha1.ReasonPodsNotReady, message: trouble}
	case wait != nil && wait.reason != v1alpha1.ReasonUnknown:
		wait.message += "; " + progress
		return wait
	case old > 0:
		return &verdict{reason: v1alpha1.ReasonRollingOut, message: progress}
	}
	return &verdict{reason: v1alpha1.ReasonScaling, message: progress}
}

// quarantine says why the wanted definition is given nothing, while old pods go on.
func quarantine(s *scope) *verdict {
	if !s.store.Facts.Quarantined || !rolling(s) {
		return nil
	}
	why := ""
	for _, w := range s.store.Facts.Workers {
		if w.Definition == s.desired.ID && w.Failing != "" && why == "" {
			why = w.Failing
		}
	}
	return &verdict{reason: v1alpha1.ReasonRolloutFailed, message: "the new definition has failed before it had handled anything; the old pods go on, and it is given nothing more: " +
		or(why, or(lastEnd(s.pods, s.desired.ID), "its workers died after they had claimed segments")) + "; apply a corrected one, or the old one again", stalled: true}
}

// lastEnd is how a container of the definition ended last, with the last lines that it has written.
func lastEnd(pods []corev1.Pod, wanted string) string {
	for _, pod := range pods {
		if pod.Labels[desired.LabelDefinition] != wanted {
			continue
		}
		for _, c := range pod.Status.ContainerStatuses {
			for _, ended := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
				if ended != nil {
					return fmt.Sprintf("container %s of pod %s ended with code %d: %s", c.Name, pod.Name, ended.ExitCode, or(lastLines(ended.Message), ended.Reason))
				}
			}
		}
	}
	return ""
}

// lastLines are the end of what a container has written.
func lastLines(text string) string {
	const most = 3
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

func deadlineExceeded(d *appsv1.Deployment) bool {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" {
			return true
		}
	}
	return false
}

// podTrouble is why the first pod of the wanted definition does not run that will not, left alone.
func podTrouble(pods []corev1.Pod, wanted string) string {
	trouble, first := "", ""
	for _, pod := range pods {
		if pod.Labels[desired.LabelDefinition] != wanted || !pod.DeletionTimestamp.IsZero() {
			continue
		}
		if text := troubleOf(pod); text != "" && (first == "" || pod.Name < first) {
			trouble, first = "pod "+pod.Name+": "+text, pod.Name
		}
	}
	return trouble
}

func troubleOf(pod corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return "cannot be scheduled: " + c.Message
		}
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		waiting := c.State.Waiting
		if waiting == nil || waiting.Reason == "ContainerCreating" || waiting.Reason == "PodInitializing" {
			continue
		}
		text := fmt.Sprintf("container %s waits in %s", c.Name, waiting.Reason)
		if ended := c.LastTerminationState.Terminated; ended != nil {
			return fmt.Sprintf("%s after it ended with code %d: %s", text, ended.ExitCode, or(lastLines(ended.Message), ended.Reason))
		}
		if waiting.Message == "" {
			return text
		}
		return text + ": " + waiting.Message
	}
	return ""
}

// workersGoOn reports whether a pod has become ready since then: workers reach their store, whatever the operator does.
func workersGoOn(pods []corev1.Pod, since int64) bool {
	for _, pod := range pods {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && c.LastTransitionTime.Unix() > since {
				return true
			}
		}
	}
	return false
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
