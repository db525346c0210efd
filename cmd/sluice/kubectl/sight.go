package kubectl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/runtime/worker"
)

// sight is all that was seen of a processor.
type sight struct {
	processor v1alpha1.EventProcessor
	pods      []podSight // by name
	podsErr   error      // why there are none

	operator operatorInfo

	replays    []v1alpha1.Replay // that have not ended
	replaysErr error
	now        time.Time
}

// podSight is what was seen of a pod, and what it said of itself.
type podSight struct {
	name, state string
	figures     map[string]figures // by group
	holdings    []worker.Holding
	calls       []worker.RunningCall
	err         error // why it was not asked, or did not answer
}

// figures of a group in one pod.
type figures struct {
	claimed, blocked int
	lag, rate        float64 // seconds, events a second
}

const (
	podLabel    = "sluice.dev/processor"
	metricsPort = "9090"
	askTimeout  = 5 * time.Second
)

// look sees a processor and asks its pods.
func (c *cluster) look(ctx context.Context, p v1alpha1.EventProcessor) sight {
	s := sight{processor: p, now: time.Now()}
	s.replays, s.replaysErr = c.openReplays(ctx, p)
	var pods corev1.PodList
	if s.podsErr = c.List(ctx, &pods, client.InNamespace(p.Namespace), client.MatchingLabels{podLabel: p.Name}); s.podsErr != nil {
		return s
	}
	s.pods = make([]podSight, len(pods.Items))
	var asking sync.WaitGroup
	for i, pod := range pods.Items {
		asking.Go(func() { s.pods[i] = c.ask(ctx, pod) })
	}
	asking.Wait()
	slices.SortFunc(s.pods, func(a, b podSight) int { return strings.Compare(a.name, b.name) })
	return s
}

// ask asks a pod through the API server.
func (c *cluster) ask(ctx context.Context, pod corev1.Pod) podSight {
	s := podSight{name: pod.Name, state: stateOf(pod)}
	if pod.Status.Phase != corev1.PodRunning {
		s.err = fmt.Errorf("it is %s", strings.ToLower(string(pod.Status.Phase)))
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	get := func(path string) ([]byte, error) {
		return c.pods.CoreV1().Pods(pod.Namespace).ProxyGet("http", pod.Name, metricsPort, path, nil).DoRaw(ctx)
	}
	text, err := get("metrics")
	if err == nil {
		s.figures, err = parseFigures(text)
	}
	if err != nil {
		s.err = fmt.Errorf("asking for metrics: %w", err)
		return s
	}
	text, err = get("segments")
	if err == nil {
		err = json.Unmarshal(text, &s.holdings)
	}
	if err != nil {
		s.err = fmt.Errorf("asking for segments: %w", err)
		return s
	}
	text, err = get("calls")
	if err == nil {
		err = json.Unmarshal(text, &s.calls)
	}
	if err != nil && !apierrors.IsNotFound(err) { // workers of older versions cannot tell
		s.err = fmt.Errorf("asking for calls: %w", err)
	}
	return s
}

// stateOf is a pod's state in one word.
func stateOf(pod corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Leaving"
	}
	for _, status := range pod.Status.ContainerStatuses {
		if status.State.Waiting != nil && status.State.Waiting.Reason != "" {
			return status.State.Waiting.Reason
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return "Ready"
		}
	}
	if pod.Status.Phase == corev1.PodRunning {
		return "NotReady"
	}
	return string(pod.Status.Phase)
}

// parseFigures reads a worker's metrics.
func parseFigures(text []byte) (map[string]figures, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	all := map[string]figures{}
	each := func(name string, take func(*figures, float64)) {
		for _, m := range families[name].GetMetric() {
			group := label(m, "group")
			f := all[group]
			take(&f, m.GetGauge().GetValue())
			all[group] = f
		}
	}
	each("sluice_segments_claimed", func(f *figures, v float64) { f.claimed = int(v) })
	each("sluice_segments_blocked", func(f *figures, v float64) { f.blocked = int(v) })
	each("sluice_lag_seconds", func(f *figures, v float64) { f.lag = v })
	each("sluice_events_per_second", func(f *figures, v float64) { f.rate = v })
	return all, nil
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
