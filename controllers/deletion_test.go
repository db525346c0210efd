package controllers_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers"
	"github.com/sluice-project/sluice/internal/postgrestest"
)

func deleting(p *v1alpha1.EventProcessor) { p.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }

var _ = Describe("Deleting a processor", func() {
	rows := func(ctx context.Context, w *world) (tokens, processors int) {
		GinkgoHelper()
		Expect(w.pool.QueryRow(ctx, "SELECT (SELECT count(*) FROM sluice.token), (SELECT count(*) FROM sluice.processor)").Scan(&tokens, &processors)).To(Succeed())
		return
	}
	gone := func(w *world) func() bool {
		return func() bool { return apierrors.IsNotFound(w.object(&v1alpha1.EventProcessor{}, "orders")()) }
	}

	It("keeps its rows by default, and waits for nothing", func(ctx SpecContext) {
		w := running()
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Expect(gone(w)()).To(BeTrue())
		tokens, _ := rows(ctx, w)
		Expect(tokens).To(Equal(4))
	})

	It("drops its rows after its pods, if asked to", func(ctx SpecContext) {
		w := running(deleting)
		Expect(w.get("orders").Finalizers).To(ConsistOf(controllers.Finalizer))
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(gone(w)).Should(BeTrue())
		Expect(w.podNames()).To(BeEmpty())
		tokens, processors := rows(ctx, w)
		Expect([]int{tokens, processors}).To(Equal([]int{0, 0}))
	})

	It("forgets to drop them when the policy is changed back", func(ctx SpecContext) {
		w := running(deleting)
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
		Eventually(func() []string { return w.get("orders").Finalizers }).Should(BeEmpty())
	})

	It("gives up on a store that does not answer, with a warning", func(ctx SpecContext) {
		server := postgrestest.Start(GinkgoTB())
		url := server.URL("postgres")
		w := newWorld(url)
		w.create(w.secret("db", map[string]string{"uri": url}), w.processor("orders", deleting))
		w.ready("orders")
		Expect(server.Stop()).To(Succeed())
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(func() string {
			if gone(w)() {
				return "gone too early"
			}
			return w.says("orders", "Ready")()
		}).Should(Equal("False/Deleting"))
		Eventually(gone(w), "30s").Should(BeTrue())
		Eventually(func() []eventsv1.Event {
			var list eventsv1.EventList
			Expect(apiClient.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			return list.Items
		}).Should(ContainElement(And(HaveField("Reason", "RowsLeft"), HaveField("Type", corev1.EventTypeWarning), HaveField("Note", ContainSubstring("ConnectionFailed")))))
	})

	It("drops the rows of every processor of a namespace that is deleted, Secrets first", func(ctx SpecContext) {
		url := postgrestest.New(GinkgoTB())
		w := newWorld(url)
		w.create(w.secret("db", map[string]string{"uri": url}))
		var names []string
		for i := range 6 {
			names = append(names, fmt.Sprintf("p%d", i))
			w.create(w.processor(names[i], deleting))
		}
		for _, name := range names {
			w.ready(name)
		}
		w.deleteNamespace(ctx)
		for _, name := range names {
			Eventually(func() bool { return apierrors.IsNotFound(w.object(&v1alpha1.EventProcessor{}, name)()) }).Should(BeTrue(), name)
		}
		tokens, processors := rows(ctx, w)
		Expect([]int{tokens, processors}).To(Equal([]int{0, 0}))
	})

	It("gives up at once in a namespace that is deleted, where the Secret is gone and nobody has connected before", func(ctx SpecContext) {
		w := running(deleting)
		operator.stop()
		w.deleteNamespace(ctx)
		operator = startOperatorWith(func(o *controllers.Options) { o.GiveUpAfter = time.Hour })
		DeferCleanup(func() {
			operator.stop()
			operator = startOperator()
		})
		Eventually(gone(w)).Should(BeTrue())
		Eventually(func() []eventsv1.Event {
			var list eventsv1.EventList
			Expect(apiClient.List(ctx, &list, client.InNamespace("default"))).To(Succeed())
			return list.Items
		}).Should(ContainElement(And(HaveField("Reason", "RowsLeft"), HaveField("Regarding.Name", w.namespace),
			HaveField("Note", ContainSubstring("the rows of test/"+w.namespace+"/orders stay in store")))))
	})

	It("waits for nothing where the Secret has been wrong from the beginning", func(ctx SpecContext) {
		operator.stop()
		operator = startOperatorWith(func(o *controllers.Options) { o.GiveUpAfter = time.Hour })
		DeferCleanup(func() {
			operator.stop()
			operator = startOperator()
		})
		w := newWorld(postgrestest.New(GinkgoTB()))
		w.create(w.processor("orders", deleting))
		Eventually(w.says("orders", "Ready")).Should(Equal("False/SecretNotFound"))
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(gone(w)).Should(BeTrue())
	})

	It("ends when the operator may do nothing any more but let it go", func(ctx SpecContext) {
		w := running(deleting)
		var role rbacv1.ClusterRole
		Expect(apiClient.Get(ctx, client.ObjectKey{Name: "sluice-operator"}, &role)).To(Succeed())
		rules := slices.Clone(role.Rules)
		change := func(edit func(r *rbacv1.ClusterRole)) {
			Expect(apiClient.Get(context.Background(), client.ObjectKey{Name: "sluice-operator"}, &role)).To(Succeed())
			edit(&role)
			Expect(apiClient.Update(context.Background(), &role)).To(Succeed())
		}
		change(func(r *rbacv1.ClusterRole) {
			r.Rules = slices.DeleteFunc(slices.Clone(rules), func(rule rbacv1.PolicyRule) bool {
				return !slices.Contains(rule.APIGroups, v1alpha1.GroupVersion.Group)
			})
		})
		DeferCleanup(func() { change(func(r *rbacv1.ClusterRole) { r.Rules = rules }) })
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(gone(w), "30s").Should(BeTrue())
	})

	It("does not keep other processors waiting, however many stores are silent", func(ctx SpecContext) {
		operator.stop()
		operator = startOperatorWith(func(o *controllers.Options) { o.GiveUpAfter = time.Hour })
		DeferCleanup(func() {
			operator.stop()
			operator = startOperator()
		})
		url := postgrestest.New(GinkgoTB())
		w := newWorld(url)
		silent, err := net.Listen("tcp", "127.0.0.1:0") // whose connections nobody accepts
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(silent.Close)
		w.create(w.secret("db", map[string]string{"uri": url}),
			w.secret("silent", map[string]string{"uri": "postgres://app@" + silent.Addr().String() + "/app?sslmode=disable&connect_timeout=30"}))
		for i := range 8 {
			name := fmt.Sprintf("silent%d", i)
			w.create(w.processor(name, deleting, func(p *v1alpha1.EventProcessor) {
				p.Spec.Store.Postgres.URLSecretRef.Name = "silent"
				p.Spec.Store.Postgres.Schema = name // a store each
			}))
			Eventually(func() error { // it had been reached once
				p := w.get(name)
				p.Status.StoreID = "00000000-0000-0000-0000-000000000000"
				return apiClient.Status().Update(ctx, p)
			}).Should(Succeed())
			Eventually(func() []string { return w.get(name).Finalizers }).ShouldNot(BeEmpty())
			Expect(apiClient.Delete(ctx, w.get(name))).To(Succeed())
		}
		DeferCleanup(func(ctx SpecContext) {
			for i := range 8 {
				p := w.get(fmt.Sprintf("silent%d", i))
				p.Finalizers = nil
				Expect(apiClient.Update(ctx, p)).To(Succeed())
			}
		}, NodeTimeout(time.Minute))
		Eventually(w.message("silent7", "Ready")).Should(ContainSubstring("the rows in the store"))
		w.create(w.processor("orders"))
		Eventually(w.says("orders", "Ready"), "8s").Should(Equal("True/Ready"))
	})
})

// deleteNamespace begins to delete the world's namespace, and plays what deletes its content: Secrets first, then the rest.
func (w *world) deleteNamespace(ctx context.Context) {
	GinkgoHelper()
	Expect(apiClient.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})).To(Succeed())
	for _, kind := range []client.Object{&corev1.Secret{}, &v1alpha1.EventProcessor{}, &appsv1.Deployment{}} {
		Expect(apiClient.DeleteAllOf(ctx, kind, client.InNamespace(w.namespace))).To(Succeed())
	}
}
