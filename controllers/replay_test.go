package controllers_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// resettable is a change that lets the group of orders be replayed.
func resettable(p *v1alpha1.EventProcessor) {
	p.Spec.ProcessingGroups[0].Handler.SQL.Reset = "SELECT 1"
}

func declaring(id string) func(*v1alpha1.EventProcessor) {
	return func(p *v1alpha1.EventProcessor) {
		p.Spec.Replay = &v1alpha1.ReplayDeclaration{ID: id, Groups: []string{"orders-view"}}
	}
}

func (w *world) newReplay(name string, groups ...string) *v1alpha1.Replay {
	return &v1alpha1.Replay{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: v1alpha1.ReplaySpec{ProcessorName: "orders", Groups: groups}}
}

// replaySays returns a function for Eventually: a condition of a Replay as "True/Reason".
func (w *world) replaySays(name, condition string) func() string {
	return func() string {
		var replay v1alpha1.Replay
		if err := w.object(&replay, name)(); err != nil {
			return err.Error()
		}
		if c := meta.FindStatusCondition(replay.Status.Conditions, condition); c != nil {
			return string(c.Status) + "/" + c.Reason
		}
		return "absent"
	}
}

func (w *world) replay(name string) *v1alpha1.Replay {
	GinkgoHelper()
	var replay v1alpha1.Replay
	Expect(w.object(&replay, name)()).To(Succeed())
	return &replay
}

// ledger returns a function for Eventually: a column of a replay's row, "" where there is none.
func (w *world) ledger(id, column string) func() string {
	return func() string {
		var value string
		if err := w.pool.QueryRow(context.Background(), "SELECT coalesce(max("+column+"::text), '') FROM sluice.replay WHERE id = $1 AND processor = $2", id, "test/"+w.namespace+"/orders").Scan(&value); err != nil {
			return err.Error()
		}
		return value
	}
}

// advance does to a replay's row what workers do: there are none here that handle events.
func (w *world) advance(id, set string) {
	GinkgoHelper()
	Expect(w.pool.Exec(context.Background(), "UPDATE sluice.replay SET "+set+" WHERE id = $1", id)).Error().NotTo(HaveOccurred())
}

func (w *world) desire(name string, state v1alpha1.ReplayState) {
	GinkgoHelper()
	Eventually(func() error {
		replay := w.replay(name)
		replay.Spec.DesiredState = state
		return apiClient.Update(context.Background(), replay)
	}).Should(Succeed())
}

const (
	resetting = "phase = 'Resetting', reason = 'WaitingForLocks', message = 'locks held by pid 7'"
	isRunning = "phase = 'Replaying', reason = '', message = '', reset_at = clock_timestamp() - interval '1 minute', done = 52, total = 100"
	isOver    = "phase = 'Complete', reason = '', message = '', done = 100, total = 100, reset_at = clock_timestamp() - interval '1 minute', ended_at = clock_timestamp() - interval '5 seconds'"
)

var _ = Describe("A replay", func() {
	It("that is declared is made, bound to its spec's definition, and followed to its end", func(ctx SpecContext) {
		w := running(resettable)
		w.edit("orders", declaring("fix"))
		Eventually(w.ledger("fix", "phase")).Should(Equal("Pending"))
		Expect(w.ledger("fix", "definition")()).To(Equal(w.get("orders").Status.Definition))
		Eventually(w.replaySays("orders.fix", "Accepted")).Should(Equal("True/Accepted"))
		Eventually(w.replaySays("orders.fix", "Reconciling")).Should(Equal("True/Pending"))
		Expect(metav1.IsControlledBy(w.replay("orders.fix"), w.get("orders"))).To(BeTrue())

		By("following a new definition")
		before := w.ledger("fix", "definition")()
		w.edit("orders", func(p *v1alpha1.EventProcessor) {
			p.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].Batch = "SELECT 2"
		})
		Eventually(w.ledger("fix", "definition")).ShouldNot(Equal(before))
		w.ready("orders")

		By("showing what it waits for")
		w.advance("fix", resetting)
		Eventually(w.replaySays("orders.fix", "Complete")).Should(Equal("False/WaitingForLocks"))
		Eventually(w.message("orders", "Replaying")).Should(ContainSubstring("pid 7"))

		By("showing its progress")
		w.advance("fix", isRunning)
		Eventually(w.says("orders", "Replaying")).Should(Equal("True/ReplayRunning"))
		Eventually(w.message("orders", "Replaying")).Should(ContainSubstring("50 %"))
		Eventually(w.replaySays("orders.fix", "Reconciling")).Should(Equal("absent"))
		Expect(w.replay("orders.fix").Status).To(And(HaveField("Progress", HaveValue(BeEquivalentTo(50))), HaveField("Events.Handled", BeEquivalentTo(52)),
			HaveField("ETA.Time", BeTemporally(">", w.replay("orders.fix").Status.ResetAt.Time))))
		Expect(w.says("orders", "Ready")()).To(Equal("True/Ready"))

		By("not cancelling it any more")
		w.desire("orders.fix", v1alpha1.ReplayCancelled)
		Eventually(w.replaySays("orders.fix", "Cancelled")).Should(Equal("False/AlreadyReset"))
		w.desire("orders.fix", v1alpha1.ReplayAbandoned)
		Eventually(w.ledger("fix", "state")).Should(Equal("Abandoned"))
		w.desire("orders.fix", v1alpha1.ReplayRunning)
		Eventually(w.ledger("fix", "state")).Should(Equal("Running"))

		By("being over, once and for all")
		w.advance("fix", isOver)
		Eventually(w.replaySays("orders.fix", "Complete")).Should(Equal("True/ReplayComplete"))
		Eventually(func() (reasons []string) {
			var list eventsv1.EventList
			Expect(apiClient.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			for _, e := range list.Items {
				if e.Regarding.Kind == "Replay" && e.Regarding.Name == "orders.fix" {
					reasons = append(reasons, e.Reason)
				}
			}
			return reasons
		}).Should(ConsistOf("Accepted", "WaitingForLocks", "ReplayRunning", "AlreadyReset", "ReplayComplete"))
		Expect(w.replay("orders.fix").Status.Progress).To(HaveValue(BeEquivalentTo(100)))
		Eventually(w.says("orders", "Replaying")).Should(Equal("False/NotReplaying"))
		uid := w.replay("orders.fix").UID
		Expect(apiClient.Delete(ctx, w.replay("orders.fix"))).To(Succeed())
		Eventually(func() bool {
			var again v1alpha1.Replay
			return w.object(&again, "orders.fix")() == nil && again.UID != uid
		}).Should(BeTrue(), "spec.replay still names it")
		Eventually(w.replaySays("orders.fix", "Complete")).Should(HavePrefix("True/"))
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(func() bool { return apierrors.IsNotFound(w.object(&v1alpha1.EventProcessor{}, "orders")()) }).Should(BeTrue())
		for _, kind := range []client.Object{&v1alpha1.Replay{}, &appsv1.Deployment{}, &policyv1.PodDisruptionBudget{}, &corev1.ConfigMap{}} { // as the garbage collector does
			Expect(apiClient.DeleteAllOf(ctx, kind, client.InNamespace(w.namespace))).To(Succeed())
		}
		w.create(w.processor("orders", resettable, declaring("fix")))
		w.ready("orders")
		Eventually(w.replaySays("orders.fix", "Complete")).Should(Equal("True/AlreadyRun"))
		Expect(w.ledger("fix", "phase")()).To(Equal("Complete"))
	})

	It("that is there when the groups are new is not run", func() {
		w := running(resettable, declaring("old"))
		Eventually(w.replaySays("orders.old", "Complete")).Should(Equal("True/Superseded"))
		Expect(w.ledger("old", "phase")()).To(Equal("Superseded"))
	})

	It("is withdrawn when the spec declares it no more before the reset", func() {
		w := running(resettable)
		w.edit("orders", declaring("first"))
		Eventually(w.ledger("first", "phase")).Should(Equal("Pending"))
		w.edit("orders", declaring("second"))
		Eventually(w.ledger("second", "phase")).Should(Equal("Pending"))
		Eventually(w.ledger("first", "phase")).Should(BeEmpty())
		Eventually(func() bool { return apierrors.IsNotFound(w.object(&v1alpha1.Replay{}, "orders.first")()) }).Should(BeTrue())
		w.advance("second", isRunning)
		Eventually(w.says("orders", "Replaying")).Should(Equal("True/ReplayRunning"))
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.Replay = nil })
		w.ready("orders")
		Consistently(w.ledger("second", "phase"), "1s").Should(Equal("Replaying"), "what was reset goes on")
		Expect(w.object(&v1alpha1.Replay{}, "orders.second")()).To(Succeed())
	})

	It("of a user's own keeps the definition that it was accepted with, and is never deleted", func() {
		w := running(resettable)
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		bound := w.ledger("mine", "definition")()
		Eventually(func() string { return w.replay("mine").Status.Definition }).Should(Equal(bound))
		w.edit("orders", func(p *v1alpha1.EventProcessor) {
			p.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].Batch = "SELECT 2"
		})
		w.ready("orders")
		Consistently(w.ledger("mine", "definition"), "1s").Should(Equal(bound))
		w.desire("mine", v1alpha1.ReplayCancelled)
		Eventually(w.ledger("mine", "state")).Should(Equal("Cancelled"))
		w.advance("mine", "phase = 'Cancelled', ended_at = clock_timestamp()")
		Eventually(w.replaySays("mine", "Failed")).Should(Equal("True/Cancelled"))
		Expect(w.replay("mine").OwnerReferences).To(BeEmpty())
	})

	It("that cannot run says why, and runs when it can", func() {
		w := newWorld("")
		w.create(w.newReplay("early", "orders-view"))
		Eventually(w.replaySays("early", "Accepted")).Should(Equal("False/ProcessorNotFound"))

		w = running()
		w.create(w.newReplay("unguarded", "orders-view"), w.newReplay("elsewhere", "views"))
		Eventually(w.replaySays("unguarded", "Accepted")).Should(Equal("False/NoReset"))
		Eventually(w.replaySays("unguarded", "Stalled")).Should(Equal("True/NoReset"))
		Eventually(w.replaySays("elsewhere", "Accepted")).Should(Equal("False/GroupNotFound"))
		Expect(w.ledger("unguarded", "phase")()).To(BeEmpty(), "what is refused is not asked for")
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Replay = v1alpha1.ReplayAllow })
		Eventually(w.replaySays("unguarded", "Accepted")).Should(Equal("True/Accepted"))
		Eventually(w.ledger("unguarded", "unguarded")).Should(Equal("{orders-view}"))
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Replay = v1alpha1.ReplayDeny })
		Eventually(w.replaySays("unguarded", "Accepted")).Should(Equal("False/ReplayDenied"))
		Eventually(w.ledger("unguarded", "phase")).Should(BeEmpty())
	})

	It("that was abandoned leaves the processor degraded until another one is complete", func(ctx SpecContext) {
		w := running(resettable)
		w.edit("orders", declaring("half"))
		Eventually(w.ledger("half", "phase")).Should(Equal("Pending"))
		w.advance("half", "phase = 'Abandoned', reset_at = clock_timestamp(), ended_at = clock_timestamp()")
		Expect(w.pool.Exec(ctx, "UPDATE sluice.processing_group SET incomplete = 1")).Error().NotTo(HaveOccurred())
		Eventually(w.replaySays("orders.half", "Cancelled")).Should(Equal("True/Abandoned"))
		Eventually(w.says("orders", "Degraded")).Should(Equal("True/ProjectionIncomplete"))
		Expect(w.pool.Exec(ctx, "UPDATE sluice.processing_group SET incomplete = NULL")).Error().NotTo(HaveOccurred())
		Eventually(w.says("orders", "Degraded")).Should(Equal("False/Healthy"))
	})

	It("leaves a bounded history", func() {
		w := running(resettable)
		for i := range 13 {
			id := fmt.Sprintf("r%d", i)
			w.edit("orders", declaring(id))
			Eventually(w.ledger(id, "phase")).Should(Equal("Pending"))
			Eventually(w.replaySays("orders."+id, "Accepted")).Should(Equal("True/Accepted"), "seen before it is over, or it counts as one that ran before")
			w.advance(id, isOver)
			Eventually(w.replaySays("orders."+id, "Complete")).Should(Equal("True/ReplayComplete"))
		}
		Eventually(func() (names []string) {
			var list v1alpha1.ReplayList
			Expect(apiClient.List(context.Background(), &list, client.InNamespace(w.namespace))).To(Succeed())
			for _, replay := range list.Items {
				names = append(names, strings.TrimPrefix(replay.Name, "orders."))
			}
			return names
		}).Should(ConsistOf("r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12"), "ten, and the one that is declared")
		Expect(w.ledger("r0", "phase")()).To(Equal("Complete"), "the ledger keeps all")
	})

	It("that has ended stays what it was while nobody sees the store or its processor", func(ctx SpecContext) {
		w := running(resettable)
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		Eventually(w.replaySays("mine", "Accepted")).Should(Equal("True/Accepted"))
		w.advance("mine", isOver)
		Eventually(w.replaySays("mine", "Complete")).Should(Equal("True/ReplayComplete"))
		w.create(w.newReplay("waiting", "orders-view"))
		Eventually(w.ledger("waiting", "phase")).Should(Equal("Pending"))
		w.advance("waiting", "reason = 'Paused', message = 'group orders-view is paused'")
		Eventually(w.replaySays("waiting", "Complete")).Should(Equal("False/Paused"))

		By("starting the operator again without the store")
		operator.stop()
		var secret corev1.Secret
		Expect(w.object(&secret, "db")()).To(Succeed())
		uri := secret.Data["uri"]
		secret.Data = map[string][]byte{"uri": []byte("mysql://nowhere")}
		Expect(apiClient.Update(ctx, &secret)).To(Succeed())
		operator = startOperator()
		Eventually(w.says("orders", "StoreReachable")).Should(Equal("False/InvalidURL"))
		Expect(w.replaySays("mine", "Complete")()).To(Equal("True/ReplayComplete"))
		Expect(w.replaySays("waiting", "Complete")()).To(Equal("False/Paused"))
		secret.Data = map[string][]byte{"uri": uri}
		Expect(apiClient.Update(ctx, &secret)).To(Succeed())
		w.ready("orders")
		w.advance("waiting", isRunning)
		Eventually(w.replaySays("waiting", "Complete")).Should(Equal("False/ReplayRunning"))

		By("deleting the processor")
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(w.replaySays("waiting", "Complete")).Should(Equal("False/ProcessorNotFound"))
		Expect(w.replay("waiting").Status.ETA).To(BeNil())
		Expect(w.replaySays("waiting", "Accepted")()).To(Equal("True/Accepted"), "it goes on when there is a processor again")
		Expect(w.replaySays("mine", "Complete")()).To(Equal("True/ReplayComplete"))
	})

	It("is complete for the first time whatever the clocks of store and API server say", func() {
		w := running(resettable)
		w.edit("orders", declaring("fix"))
		Eventually(w.replaySays("orders.fix", "Accepted")).Should(Equal("True/Accepted"))
		Eventually(w.ledger("fix", "phase")).Should(Equal("Pending"))
		w.advance("fix", `phase = 'Complete', requested_at = requested_at - interval '1 hour',
			reset_at = clock_timestamp() - interval '1 hour', ended_at = clock_timestamp() - interval '1 hour'`)
		Eventually(w.replaySays("orders.fix", "Complete")).Should(Equal("True/ReplayComplete"))
	})

	It("can be abandoned whatever the spec says meanwhile", func() {
		w := running(resettable)
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		w.advance("mine", isRunning)
		Eventually(w.says("orders", "Replaying")).Should(Equal("True/ReplayRunning"))
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Replay = v1alpha1.ReplayDeny })
		w.desire("mine", v1alpha1.ReplayAbandoned)
		Eventually(w.ledger("mine", "state")).Should(Equal("Abandoned"))
	})

	It("is withdrawn while its reset waits for locks, and does not come back", func(ctx SpecContext) {
		w := running(resettable)
		w.edit("orders", declaring("first"))
		Eventually(w.ledger("first", "phase")).Should(Equal("Pending"))
		w.advance("first", resetting)
		Eventually(w.replaySays("orders.first", "Complete")).Should(Equal("False/WaitingForLocks"))
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.Replay = nil })
		Eventually(w.ledger("first", "state")).Should(Equal("Cancelled"), "the reset looks at it before it commits")

		By("a worker that gives back a reset which nobody asks for any more")
		Expect(w.pool.Exec(ctx, `INSERT INTO sluice.replay (processor, id, groups, place, definition, phase)
			SELECT processor, 'second', groups, place, definition, 'Pending' FROM sluice.replay WHERE id = 'first'`)).Error().NotTo(HaveOccurred())
		Eventually(w.ledger("second", "phase")).Should(BeEmpty())
	})

	It("is cancelled also where no worker is there", func() {
		w := running(resettable)
		w.edit("orders", func(p *v1alpha1.EventProcessor) { *p.Spec.Replicas = 0 })
		Eventually(w.podNames).Should(BeEmpty())
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		w.desire("mine", v1alpha1.ReplayCancelled)
		Eventually(w.replaySays("mine", "Cancelled")).Should(Equal("True/Cancelled"))
	})

	It("that workers refused is bound anew when the definition changes", func() {
		w := running(resettable)
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		w.advance("mine", "reason = 'NoReset', message = 'group orders-view has no reset'")
		Eventually(w.replaySays("mine", "Accepted")).Should(Equal("False/NoReset"))
		before := w.ledger("mine", "definition")()
		w.edit("orders", func(p *v1alpha1.EventProcessor) {
			p.Spec.ProcessingGroups[0].Handler.SQL.Statements[0].Batch = "SELECT 2"
		})
		Eventually(w.ledger("mine", "definition")).ShouldNot(Equal(before))
		w.ready("orders")
		Expect(w.ledger("mine", "definition")()).To(Equal(w.get("orders").Status.Definition))
	})

	It("that was made for a processor of the same name that is no more is not asked for", func() {
		w := running(resettable)
		gone := w.get("orders").DeepCopy()
		gone.UID = "8a1c2f6e-0000-4000-8000-000000000000"
		left := w.newReplay("orders.left", "orders-view") // the garbage collector, which is not here, deletes it soon
		left.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(gone, v1alpha1.GroupVersion.WithKind("EventProcessor"))}
		w.create(left)
		Eventually(w.replaySays("orders.left", "Accepted")).ShouldNot(Equal("absent"))
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		Expect(w.ledger("left", "phase")()).To(BeEmpty())
	})

	It("that is declared and cannot run is told of at the processor, too", func() {
		w := running()
		w.edit("orders", declaring("fix"))
		Eventually(w.replaySays("orders.fix", "Accepted")).Should(Equal("False/NoReset"))
		Eventually(w.says("orders", "Replaying")).Should(Equal("False/ReplayWaiting"))
		Expect(w.message("orders", "Replaying")()).To(ContainSubstring("set handler.sql.reset, or replay: Allow"))
		w.ready("orders")
	})

	It("that fails in its reset is Stalled, so that nobody waits for it", func() {
		w := running(resettable)
		w.edit("orders", declaring("fix"))
		Eventually(w.ledger("fix", "phase")).Should(Equal("Pending"))
		w.advance("fix", "phase = 'Failed', reason = 'ResetFailed', message = 'no such table', ended_at = clock_timestamp()")
		Eventually(w.replaySays("orders.fix", "Failed")).Should(Equal("True/ResetFailed"))
		Expect(w.replaySays("orders.fix", "Stalled")()).To(Equal("True/ResetFailed"))
	})
})
