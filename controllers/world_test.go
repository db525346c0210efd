package controllers_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/tokenstore"
)

// world is a namespace in which the test plays what an API server alone lacks: the Deployment's controller, the kubelet
// and the workers in the pods. At each step it checks every status that it sees for contradictions.
type world struct {
	namespace string
	url       string // of the database, where workers connect to

	mu       sync.Mutex
	report   func(tokenstore.Worker) tokenstore.Report // what workers say; nil for nothing special
	broken   bool                                      // pods do not become ready
	workers  map[string]*playedWorker                  // by pod
	pool     *pgxpool.Pool
	problems []string
	over     map[types.UID]bool // Replays that have ended
}

func newWorld(url string) *world {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	Expect(apiClient.Create(context.Background(), namespace)).To(Succeed())
	w := &world{namespace: namespace.Name, url: url, workers: map[string]*playedWorker{}, over: map[types.UID]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var playing sync.WaitGroup
	playing.Go(func() { w.play(ctx) })
	DeferCleanup(func() {
		cancel()
		playing.Wait()
		w.end()
		Expect(w.problems).To(BeEmpty(), "statuses contradict themselves")
		Expect(apiClient.DeleteAllOf(context.Background(), &v1alpha1.EventProcessor{}, client.InNamespace(w.namespace))).To(Succeed())
	})
	return w
}

func (w *world) play(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := errors.Join(w.playDeployments(ctx), w.playPods(ctx), w.check(ctx)); err != nil && ctx.Err() == nil && !passing(err) {
				fmt.Fprintln(GinkgoWriter, "playing:", err)
			}
		}
	}
}

// passing errors are gone with the next step.
func passing(err error) bool { return apierrors.IsConflict(err) || apierrors.IsNotFound(err) }

func (w *world) check(ctx context.Context) error {
	var list v1alpha1.EventProcessorList
	if err := apiClient.List(ctx, &list, client.InNamespace(w.namespace)); err != nil {
		return err
	}
	for _, p := range list.Items {
		w.note(p.Name, contradictions(&p)...)
	}
	var replays v1alpha1.ReplayList
	if err := apiClient.List(ctx, &replays, client.InNamespace(w.namespace)); err != nil {
		return err
	}
	for _, r := range replays.Items {
		w.note(r.Name, replayContradictions(&r)...)
		over := meta.IsStatusConditionTrue(r.Status.Conditions, "Complete") || meta.IsStatusConditionTrue(r.Status.Conditions, "Failed")
		if w.over[r.UID] && !over {
			w.note(r.Name, fmt.Sprintf("it had ended, and has not any more: %+v", r.Status.Conditions))
		}
		w.over[r.UID] = w.over[r.UID] || over
	}
	return nil
}

// note remembers each problem once.
func (w *world) note(name string, problems ...string) {
	for _, problem := range problems {
		if text := name + ": " + problem; !slices.Contains(w.problems, text) {
			w.problems = append(w.problems, text)
		}
	}
}

// playDeployments makes and ends pods at once; old ones go when the new ones are ready.
func (w *world) playDeployments(ctx context.Context) error {
	var list appsv1.DeploymentList
	if err := apiClient.List(ctx, &list, client.InNamespace(w.namespace)); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := apiClient.List(ctx, &pods, client.InNamespace(w.namespace)); err != nil {
		return err
	}
	var all error
	alive := map[string]bool{}
	for _, d := range list.Items {
		alive[d.Name] = true
		all = errors.Join(all, w.playDeployment(ctx, &d, pods.Items))
	}
	for _, pod := range pods.Items { // as the garbage collector does
		if !alive[pod.Labels[desired.LabelProcessor]] {
			all = errors.Join(all, w.deletePod(ctx, &pod))
		}
	}
	return all
}

func (w *world) playDeployment(ctx context.Context, d *appsv1.Deployment, pods []corev1.Pod) error {
	wanted := int(*d.Spec.Replicas)
	definition := d.Spec.Template.Labels[desired.LabelDefinition]
	var old, current, ready []corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.Labels[desired.LabelProcessor] != d.Name:
		case pod.Labels[desired.LabelDefinition] != definition:
			old = append(old, pod)
		default:
			current = append(current, pod)
			if isReady(pod) {
				ready = append(ready, pod)
			}
		}
	}
	var err error
	for _, pods := range [][]corev1.Pod{old, current} { // which ones go first
		slices.SortStableFunc(pods, func(a, b corev1.Pod) int {
			return cmp.Or(cmp.Compare(number(isReady(a)), number(isReady(b))), cmp.Compare(cost(a), cost(b)))
		})
	}
	switch surge := wanted + min(len(old), 1); {
	case len(current) < wanted && len(current)+len(old) < surge+number(len(old) == 0):
		err = w.createPod(ctx, d)
	case len(current) > wanted:
		err = w.deletePod(ctx, &current[0])
	case len(old) > 0 && (!isReady(old[0]) || len(ready)+countReady(old) > wanted):
		err = w.deletePod(ctx, &old[0])
	}
	status := appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: int32(len(current) + len(old)),
		UpdatedReplicas: int32(len(current)), ReadyReplicas: int32(len(ready) + len(old)), AvailableReplicas: int32(len(ready) + len(old))}
	if d.Status.ObservedGeneration == status.ObservedGeneration && d.Status.Replicas == status.Replicas &&
		d.Status.UpdatedReplicas == status.UpdatedReplicas && d.Status.AvailableReplicas == status.AvailableReplicas {
		return err
	}
	d.Status = status
	return errors.Join(err, apiClient.Status().Update(ctx, d))
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// cost is a pod's deletion cost.
func cost(pod corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[corev1.PodDeletionCost])
	if err != nil {
		return 0
	}
	return n
}

func countReady(pods []corev1.Pod) (count int) {
	for _, pod := range pods {
		count += number(isReady(pod))
	}
	return count
}

func isReady(pod corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (w *world) createPod(ctx context.Context, d *appsv1.Deployment) error {
	pod := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	pod.Namespace, pod.GenerateName = d.Namespace, d.Name+"-"
	pod.Spec.TerminationGracePeriodSeconds = new(int64) // there is no kubelet to confirm an end
	return apiClient.Create(ctx, pod)
}

func (w *world) deletePod(ctx context.Context, pod *corev1.Pod) error {
	w.mu.Lock()
	worker := w.workers[pod.Name]
	delete(w.workers, pod.Name)
	w.mu.Unlock()
	if worker != nil {
		worker.stop() // which waits for a step, which asks for what to report
	}
	return client.IgnoreNotFound(apiClient.Delete(ctx, pod, client.GracePeriodSeconds(0)))
}

// playPods starts a worker for each pod, and makes the pod ready when the worker runs.
func (w *world) playPods(ctx context.Context) error {
	var pods corev1.PodList
	if err := apiClient.List(ctx, &pods, client.InNamespace(w.namespace)); err != nil {
		return err
	}
	var all error
	for _, pod := range pods.Items {
		all = errors.Join(all, w.playPod(ctx, &pod))
	}
	return all
}

func (w *world) playPod(ctx context.Context, pod *corev1.Pod) error {
	w.mu.Lock()
	worker, broken := w.workers[pod.Name], w.broken
	w.mu.Unlock()
	if worker == nil {
		return w.startWorker(ctx, pod)
	}
	ready := !worker.leaving.Load()
	if isReady(*pod) == ready || broken && ready {
		return nil
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}}
	if ready {
		pod.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	return apiClient.Status().Update(ctx, pod)
}

func (w *world) end() {
	w.mu.Lock()
	workers := w.workers
	w.workers = nil
	w.mu.Unlock()
	for _, worker := range workers {
		worker.stop()
	}
	if w.pool != nil {
		w.pool.Close()
	}
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// Objects.

func (w *world) secret(name string, data map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, StringData: data}
}

// processor with one group whose name is unique in the store.
func (w *world) processor(name string, change ...func(*v1alpha1.EventProcessor)) *v1alpha1.EventProcessor {
	replicas := int32(2)
	p := &v1alpha1.EventProcessor{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
	p.Spec.Replicas = &replicas
	p.Spec.Store = v1alpha1.Store{Type: "Postgres", Postgres: &v1alpha1.PostgresStore{URLSecretRef: &v1alpha1.URLSecretReference{Name: "db"}}}
	p.Spec.ProcessingGroups = []v1alpha1.ProcessingGroup{{Name: name + "-view", Segments: 4, Handler: v1alpha1.Handler{Type: "SQL",
		SQL: &v1alpha1.SQLHandler{Statements: []v1alpha1.SQLStatement{{EventTypes: []string{"A"}, Batch: "SELECT 1"}}}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func (w *world) create(objects ...client.Object) {
	GinkgoHelper()
	for _, object := range objects {
		Expect(apiClient.Create(context.Background(), object)).To(Succeed())
	}
}

// edit changes a processor as kubectl edit does.
func (w *world) edit(name string, change func(*v1alpha1.EventProcessor)) {
	GinkgoHelper()
	Eventually(func() error {
		p := w.get(name)
		change(p)
		return apiClient.Update(context.Background(), p)
	}).Should(Succeed())
}

func (w *world) get(name string) *v1alpha1.EventProcessor {
	GinkgoHelper()
	var p v1alpha1.EventProcessor
	Expect(apiClient.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: name}, &p)).To(Succeed())
	return &p
}

// says returns a function for Eventually: a condition as "True/Reason", at the generation of the spec.
func (w *world) says(name, condition string) func() string {
	return func() string {
		p := w.get(name)
		c := meta.FindStatusCondition(p.Status.Conditions, condition)
		if c == nil {
			return "absent"
		}
		if c.ObservedGeneration != p.Generation {
			return "outdated"
		}
		return string(c.Status) + "/" + c.Reason
	}
}

func (w *world) message(name, condition string) func() string {
	return func() string {
		if c := meta.FindStatusCondition(w.get(name).Status.Conditions, condition); c != nil {
			return c.Message
		}
		return ""
	}
}

func (w *world) ready(name string) {
	GinkgoHelper()
	Eventually(w.says(name, "Ready")).Should(Equal("True/Ready"), func() string { return fmt.Sprintf("%+v", w.get(name).Status) })
}

func (w *world) object(object client.Object, name string) func() error {
	return func() error {
		return apiClient.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: name}, object)
	}
}

// podNames of a processor.
func (w *world) podNames() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.workers))
}
