package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/internal/postgrestest"
)

// fuse lets so many writes to the API server through, and nothing after the last of them: what an operator's process is like that
// was killed right after a write. Events do not count: nobody reads them to decide.
type fuse struct {
	mu    sync.Mutex
	left  int
	blown chan struct{}
	next  http.RoundTripper
}

func newFuse(writes int) *fuse { return &fuse{left: writes, blown: make(chan struct{})} }

func (f *fuse) wrap(next http.RoundTripper) http.RoundTripper {
	f.next = next
	return f
}

func (f *fuse) RoundTrip(request *http.Request) (*http.Response, error) {
	select {
	case <-f.blown:
		return nil, errors.New("this process has been killed")
	default:
	}
	counts := request.Method != http.MethodGet && !strings.Contains(request.URL.Path, "/events")
	if !counts {
		return f.next.RoundTrip(request)
	}
	f.mu.Lock() // one write after the other, so that the last one is the last
	defer f.mu.Unlock()
	if f.left == 0 {
		return nil, errors.New("this process has been killed")
	}
	response, err := f.next.RoundTrip(request)
	if err == nil && response.StatusCode < 300 {
		if f.left--; f.left == 0 {
			close(f.blown)
		}
	}
	return response, err
}

// life runs a scenario with an operator that is killed after so many writes, and another one that comes after it. It reports
// whether the first one lived to the end.
func life(writes int, scenario func(until func(what string, holds func() bool))) (survived bool) {
	GinkgoHelper()
	f := newFuse(writes)
	running := startOperator(f.wrap)
	defer func() { running.stop() }()
	survived = true
	scenario(func(what string, holds func() bool) {
		GinkgoHelper()
		deadline := time.Now().Add(30 * time.Second)
		for !holds() {
			select {
			case <-f.blown:
				if survived {
					survived = false
					running.cancel()
					<-running.ended // how a process ends that can reach nothing is of no interest
					running = startOperator()
				}
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				Fail(fmt.Sprintf("killed after %d writes: waited 30 s for %s", writes, what), 1)
			}
		}
	})
	return survived
}

var _ = Describe("An operator that is killed right after any of its writes", Serial, func() {
	It("leaves what the next one brings to the same end", func(ctx SpecContext) {
		operator.stop()
		DeferCleanup(func() { operator = startOperator() })
		url := postgrestest.New(GinkgoTB())
		w := newWorld(url)
		w.create(w.secret("db", map[string]string{"uri": url}))
		writes := 1
		for ; !life(writes, func(until func(string, func() bool)) { w.lifecycle(ctx, fmt.Sprintf("orders-%d", writes), until) }); writes++ {
		}
		Expect(writes).To(BeNumerically(">", 12), "vacuous: a processor takes more writes than that")
		fmt.Fprintln(GinkgoWriter, "the scenario took", writes-1, "writes at most")
	}, NodeTimeout(10*time.Minute))
})

// lifecycle makes a processor, rolls a new definition out together with a replay, and scales it in.
func (w *world) lifecycle(ctx context.Context, name string, until func(string, func() bool)) {
	GinkgoHelper()
	pods := func() (all []corev1.Pod) {
		var list corev1.PodList
		Expect(apiClient.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels{desired.LabelProcessor: name})).To(Succeed())
		return list.Items
	}
	ready := func() bool { return w.says(name, "Ready")() == "True/Ready" }
	w.create(w.processor(name, resettable, func(p *v1alpha1.EventProcessor) { *p.Spec.Replicas = 3 }))
	until("it to be ready", ready)

	w.edit(name, func(p *v1alpha1.EventProcessor) {
		p.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].Batch = "SELECT 2"
		p.Spec.Replay = &v1alpha1.ReplayDeclaration{ID: "fix", Groups: []string{name + "-view"}}
	})
	until("the new definition to be rolled out", func() bool {
		for _, pod := range pods() {
			if pod.Labels[desired.LabelDefinition] != w.get(name).Status.Definition {
				return false
			}
		}
		return ready() && len(pods()) == 3
	})
	var asked, bound int
	until("the replay to be asked for, with the new definition", func() bool {
		Expect(w.pool.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE r.definition = p.definition) FROM sluice.replay r JOIN sluice.processor p ON p.name = r.processor
			WHERE r.id = 'fix' AND r.processor = $1`, "test/"+w.namespace+"/"+name).Scan(&asked, &bound)).To(Succeed())
		return asked == 1 && bound == 1 && w.replaySays(name+".fix", "Accepted")() == "True/Accepted"
	})

	w.edit(name, func(p *v1alpha1.EventProcessor) { *p.Spec.Replicas = 2 })
	until("two pods that share the segments, without costs", func() bool {
		var owners, unowned int
		Expect(w.pool.QueryRow(ctx, `SELECT count(DISTINCT owner), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM sluice.worker k WHERE k.incarnation = owner AND k.state = 'Active' AND k.leaving_since IS NULL))
			FROM sluice.token WHERE group_name = $1`, name+"-view").Scan(&owners, &unowned)).To(Succeed())
		for _, pod := range pods() {
			if len(pod.Annotations) > 0 {
				return false
			}
		}
		return ready() && len(pods()) == 2 && owners == 2 && unowned == 0
	})
	Expect(apiClient.Delete(ctx, w.get(name))).To(Succeed())
	for _, kind := range []client.Object{&v1alpha1.Replay{}, &appsv1.Deployment{}} { // as the garbage collector does
		Expect(apiClient.DeleteAllOf(ctx, kind, client.InNamespace(w.namespace))).To(Succeed())
	}
}
