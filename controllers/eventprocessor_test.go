package controllers_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore"
)

// running is a world with a processor that is ready.
func running(change ...func(*v1alpha1.EventProcessor)) *world {
	GinkgoHelper()
	url := postgrestest.New(GinkgoTB())
	w := newWorld(url)
	w.create(w.secret("db", map[string]string{"uri": url}), w.processor("orders", change...))
	w.ready("orders")
	return w
}

var _ = Describe("An EventProcessor", func() {
	It("becomes objects of its own, and a status", func(ctx SpecContext) {
		w := running()
		p := w.get("orders")
		Expect(p.Status.StoreID).NotTo(BeEmpty())
		Expect(p.Finalizers).To(BeEmpty(), "deletionPolicy Retain needs no finalizer")
		var deployment appsv1.Deployment
		Expect(w.object(&deployment, "orders")()).To(Succeed())
		Expect(deployment.Spec.Template.Labels).To(HaveKeyWithValue("sluice.dev/definition", p.Status.Definition))
		Expect(metav1.IsControlledBy(&deployment, p)).To(BeTrue())
		var configMap corev1.ConfigMap
		Expect(w.object(&configMap, "orders-"+p.Status.Definition)()).To(Succeed())
		Expect(*configMap.Immutable).To(BeTrue())
		Expect(w.object(&policyv1.PodDisruptionBudget{}, "orders")()).To(Succeed())

		Eventually(func() string { return w.get("orders").Status.Segments.Summary }).Should(Equal("4/4"))
		Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		Eventually(w.says("orders", "HandlerValid")).Should(Equal("True/Valid"))
		Expect(w.says("orders", "StoreReachable")()).To(Equal("True/Reachable"))
		Expect(w.says("orders", "Degraded")()).To(Equal("False/Healthy"))
		status := w.get("orders").Status
		Expect(status.Replicas).To(Equal(int32(2)))
		Expect(status.Runtime.Max).To(Equal("1.2.3"))
		Expect(status.Groups).To(HaveLen(1))
		Expect(status.Groups[0].State).To(Equal(v1alpha1.GroupRunning))
	})

	It("leaves fields of others alone and takes its own back", func(ctx SpecContext) {
		w := running()
		var deployment appsv1.Deployment
		Expect(w.object(&deployment, "orders")()).To(Succeed())
		patch := client.MergeFrom(deployment.DeepCopy())
		deployment.Spec.Template.Annotations = map[string]string{"mine": "1"}
		deployment.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
		deployment.Spec.Strategy.RollingUpdate = nil
		Expect(apiClient.Patch(ctx, &deployment, patch, client.FieldOwner("somebody"))).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(w.object(&deployment, "orders")()).To(Succeed())
			g.Expect(deployment.Spec.Strategy.Type).To(Equal(appsv1.RollingUpdateDeploymentStrategyType))
			g.Expect(deployment.Spec.Template.Annotations).To(HaveKeyWithValue("mine", "1"))
		}).Should(Succeed())
	})

	It("scales by its scale subresource, and shares the segments anew", func(ctx SpecContext) {
		w := running()
		scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 4}}
		Expect(apiClient.SubResource("scale").Update(ctx, w.get("orders"), client.WithSubResourceBody(scale))).To(Succeed())
		Eventually(func() int { return len(w.podNames()) }).Should(Equal(4))
		w.ready("orders")
		Eventually(func(g Gomega) {
			g.Expect(w.owners(ctx)).To(HaveLen(4))
		}).Should(Succeed())
		Expect(apiClient.SubResource("scale").Get(ctx, w.get("orders"), scale)).To(Succeed())
		Expect(scale.Status.Selector).To(Equal("sluice.dev/processor=orders"))
		w.edit("orders", func(p *v1alpha1.EventProcessor) { *p.Spec.Replicas = 0 })
		Eventually(w.says("orders", "Available")).Should(Equal("False/ScaledToZero"))
		w.ready("orders")
	})

	It("splits and merges segments while it runs", func(ctx SpecContext) {
		w := running()
		for _, count := range []int32{8, 3, 4} {
			w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Segments = count })
			w.ready("orders")
			Eventually(func() []v1alpha1.GroupStatus { return w.get("orders").Status.Groups }).Should(
				ConsistOf(HaveField("Segments", count)))
			Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		}
		Expect(w.definitions(ctx)).To(HaveLen(1), "segments are a live field")
	})

	It("rolls out a new definition and keeps five old ones", func(ctx SpecContext) {
		w := running()
		for i := range 8 {
			w.edit("orders", func(p *v1alpha1.EventProcessor) {
				p.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].Batch = "SELECT " + strings.Repeat("1", i+2)
			})
			w.ready("orders")
		}
		Eventually(func() []string { return w.definitions(ctx) }).Should(HaveLen(6))
	})

	It("is ready while paused", func(ctx SpecContext) {
		w := running()
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.DesiredState = v1alpha1.DesiredStatePaused })
		Eventually(w.says("orders", "Ready")).Should(Equal("True/Paused"))
		Eventually(func() v1alpha1.GroupState { return w.get("orders").Status.Groups[0].State }).Should(Equal(v1alpha1.GroupPaused))
	})

	It("does not adopt what belongs to somebody else", func(ctx SpecContext) {
		url := postgrestest.New(GinkgoTB())
		w := newWorld(url)
		foreign := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "orders"}}
		w.create(foreign, w.secret("db", map[string]string{"uri": url}), w.processor("orders"))
		Eventually(w.says("orders", "Ready")).Should(Equal("False/NameConflict"))
		Expect(w.message("orders", "Stalled")()).To(ContainSubstring("PodDisruptionBudget orders"))
		Expect(w.object(&appsv1.Deployment{}, "orders")()).NotTo(Succeed())
		var still policyv1.PodDisruptionBudget
		Expect(w.object(&still, "orders")()).To(Succeed())
		Expect(still.ResourceVersion).To(Equal(foreign.ResourceVersion))
	})

	It("does not fight over the Deployment's replicas", func(ctx SpecContext) {
		w := running()
		var deployment appsv1.Deployment
		Expect(w.object(&deployment, "orders")()).To(Succeed())
		scale := func(replicas int32) {
			body := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
			Expect(apiClient.SubResource("scale").Update(ctx, &deployment, client.WithSubResourceBody(body), client.FieldOwner("autoscaler"))).To(Succeed())
		}
		Eventually(func() string { // as autoscalers do: a reconcile that has begun already may still write over one of them
			scale(3)
			return w.says("orders", "Stalled")()
		}).Should(Equal("True/DeploymentScaledExternally"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring("autoscaler"))
		Expect(w.object(&deployment, "orders")()).To(Succeed())
		Expect(*deployment.Spec.Replicas).To(Equal(int32(3)))
		scale(2)
		w.ready("orders")
	})

	It("says what is wrong with pods", func(ctx SpecContext) {
		w := running()
		Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		w.set(func() { w.broken = true })
		w.edit("orders", func(p *v1alpha1.EventProcessor) {
			p.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].Batch = "SELECT 2"
		})
		Eventually(w.says("orders", "Reconciling")).Should(Equal("True/RollingOut"))
		Eventually(func(g Gomega) {
			var pods corev1.PodList
			g.Expect(apiClient.List(ctx, &pods, client.InNamespace(w.namespace), client.MatchingLabels{"sluice.dev/definition": w.get("orders").Status.Definition})).To(Succeed())
			g.Expect(pods.Items).NotTo(BeEmpty())
			pod := pods.Items[0]
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}}
			g.Expect(apiClient.Status().Update(ctx, &pod)).To(Succeed())
		}).Should(Succeed())
		Eventually(w.says("orders", "Ready")).Should(Equal("False/PodsNotReady"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring("no such image"))
		Expect(w.says("orders", "Available")()).To(Equal("True/AllSegmentsOwned"), "the old pods go on")
		w.set(func() { w.broken = false })
		w.ready("orders")
	})

	It("tells what workers report", func(ctx SpecContext) {
		w := running()
		fault := func(f tokenstore.Fault) func() {
			return func() {
				w.report = func(tokenstore.Worker) tokenstore.Report {
					return tokenstore.Report{Groups: map[string]tokenstore.GroupReport{"orders-view": {Fault: &f, Blocked: 1}}}
				}
			}
		}
		segment := uint32(3)
		w.set(fault(tokenstore.Fault{Kind: tokenstore.EventFault, Message: "division by zero", Segment: &segment, Position: 42, Attempts: 2, Since: time.Now()}))
		Eventually(w.says("orders", "Degraded")).Should(Equal("True/SegmentBlocked"))
		Expect(w.message("orders", "Degraded")()).To(HavePrefix("group orders-view, segment 3, event at position 42, 2 or more attempts: division by zero"))
		Expect(w.says("orders", "Ready")()).To(Equal("True/Ready"), "the spec is in effect")

		w.set(fault(tokenstore.Fault{Kind: tokenstore.DefinitionFault, Reason: "TableMissing", Message: `statement 1: relation "orders" does not exist`, Since: time.Now()}))
		Eventually(w.says("orders", "HandlerValid")).Should(Equal("False/StatementInvalid"))
		Eventually(w.says("orders", "Ready")).Should(Equal("False/StatementInvalid"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring(`relation "orders" does not exist`))
		Eventually(w.says("orders", "Degraded")).Should(Equal("False/Healthy"))

		w.set(func() { w.report = nil })
		w.ready("orders")
	})

	It("names who keeps transactions open, for as long as they are", func(ctx SpecContext) {
		w := running()
		since := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.UTC)
		w.set(func() {
			w.report = func(tokenstore.Worker) tokenstore.Report {
				return tokenstore.Report{Ready: true, Proven: true, OpenWriters: []eventsource.OpenWriter{
					{Transaction: "7", PID: 42, Application: "importer", User: "app", Since: since}, {Transaction: "8", Prepared: "left", User: "app", Since: since.Add(time.Minute)}}}
			}
		})
		writers := func() []v1alpha1.OpenWriter { return w.get("orders").Status.OpenWriters }
		Eventually(writers, "20s").Should(HaveLen(2))
		first := writers()[0]
		Expect(first.Since.Time).To(BeTemporally("==", since.Truncate(time.Second)))
		first.Since = metav1.Time{}
		Expect(first).To(Equal(v1alpha1.OpenWriter{PID: 42, Application: "importer", User: "app"}))
		Expect(writers()[1].Prepared).To(Equal("left"))
		Expect(w.says("orders", "Ready")()).To(Equal("True/Ready"))
		written := w.get("orders").ResourceVersion
		Consistently(func() string { return w.get("orders").ResourceVersion }, "2s").Should(Equal(written), "the status changes while the writers do not")
		w.set(func() { w.report = nil })
		Eventually(writers, "20s").Should(BeEmpty())
	})

	It("writes nothing at rest", func(ctx SpecContext) {
		w := running()
		versions := func() []string {
			var deployment appsv1.Deployment
			var budget policyv1.PodDisruptionBudget
			Expect(w.object(&deployment, "orders")()).To(Succeed())
			Expect(w.object(&budget, "orders")()).To(Succeed())
			return []string{w.get("orders").ResourceVersion, deployment.ResourceVersion, budget.ResourceVersion}
		}
		Eventually(func() string { return w.get("orders").Status.Segments.Summary }).Should(Equal("4/4"))
		Eventually(w.says("orders", "HandlerValid")).Should(Equal("True/Valid"))
		var before []string
		Eventually(func() bool { // the last figures may be written up to ten seconds late
			before = versions()
			return w.unchangedFor(ctx, 12, versions, before)
		}, "60s").Should(BeTrue())
	})

	It("goes on after the operator was away", func(ctx SpecContext) {
		w := running()
		Eventually(func() int { return len(w.owners(ctx)) }).Should(Equal(2))
		version := w.get("orders").Status.Definition
		operator.stop()
		w.edit("orders", func(p *v1alpha1.EventProcessor) { *p.Spec.Replicas = 3 })
		operator = startOperator()
		w.ready("orders")
		Eventually(func() int { return len(w.owners(ctx)) }).Should(Equal(3))
		Expect(w.get("orders").Status.Definition).To(Equal(version))
	})
})

// unchangedFor watches over rounds of the planner, a second each.
func (w *world) unchangedFor(ctx context.Context, rounds int64, now func() []string, before []string) bool {
	start := w.plannerRounds(ctx)
	for w.plannerRounds(ctx) < start+rounds {
		for i, version := range now() {
			if version != before[i] {
				return false
			}
		}
	}
	return true
}

// plannerRounds are counted by the seconds at which the plan was renewed.
func (w *world) plannerRounds(ctx context.Context) int64 {
	GinkgoHelper()
	var seconds int64
	Expect(w.pool.QueryRow(ctx, "SELECT extract(epoch FROM plan_renewed_at)::bigint FROM sluice.processor").Scan(&seconds)).To(Succeed())
	return seconds
}

// owners are how many segments each worker has, by incarnation.
func (w *world) owners(ctx context.Context) map[int64]int {
	GinkgoHelper()
	rows, err := w.pool.Query(ctx, "SELECT owner FROM sluice.token WHERE owner <> 0")
	Expect(err).NotTo(HaveOccurred())
	owners := map[int64]int{}
	for rows.Next() {
		var owner int64
		Expect(rows.Scan(&owner)).To(Succeed())
		owners[owner]++
	}
	Expect(rows.Err()).NotTo(HaveOccurred())
	return owners
}

// definitions are the ConfigMaps' names.
func (w *world) definitions(ctx context.Context) []string {
	GinkgoHelper()
	var list corev1.ConfigMapList
	Expect(apiClient.List(ctx, &list, client.InNamespace(w.namespace), client.HasLabels{"sluice.dev/processor"})).To(Succeed())
	var names []string
	for _, c := range list.Items {
		names = append(names, c.Name)
	}
	return names
}
