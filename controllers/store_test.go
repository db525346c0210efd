package controllers_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/internal/localpostgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

var _ = Describe("A store", func() {
	It("whose Secret is missing is named, and used when the Secret comes", func(ctx SpecContext) {
		url := postgrestest.New(GinkgoTB())
		w := newWorld(url)
		w.create(w.processor("orders"))
		Eventually(w.says("orders", "StoreReachable")).Should(Equal("False/SecretNotFound"))
		Expect(w.says("orders", "Ready")()).To(Equal("False/SecretNotFound"))
		Expect(w.message("orders", "Ready")()).To(Equal("Secret db does not exist: create it with the key uri"))
		Expect(w.says("orders", "Reconciling")()).To(Equal("True/SecretNotFound"))
		Eventually(w.object(&appsv1.Deployment{}, "orders")).Should(Succeed(), "pods do not wait for the store")

		secret := w.secret("db", map[string]string{"url": url})
		w.create(secret)
		Eventually(w.message("orders", "StoreReachable")).Should(Equal("Secret db has no key uri: add it, or name another key in spec.store.postgres"))
		secret.StringData = map[string]string{"uri": "mysql://somewhere"}
		Expect(apiClient.Update(ctx, secret)).To(Succeed())
		Eventually(w.says("orders", "StoreReachable")).Should(Equal("False/InvalidURL"))
		secret.StringData = map[string]string{"uri": url}
		Expect(apiClient.Update(ctx, secret)).To(Succeed())
		w.ready("orders")
	})

	It("is said to be fine while the events' own database is missing", func(ctx SpecContext) {
		store, events := postgrestest.New(GinkgoTB()), postgrestest.New(GinkgoTB())
		conn, err := pgx.Connect(ctx, events)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close(ctx)
		_, err = postgres.Migrate(ctx, conn, postgres.DefaultSchema)
		Expect(err).NotTo(HaveOccurred())
		w := newWorld(store)
		w.create(w.secret("db", map[string]string{"uri": store}), w.processor("orders", func(p *v1alpha1.EventProcessor) {
			p.Spec.Source = v1alpha1.Source{Type: "Store", Postgres: &v1alpha1.PostgresSource{URLSecretRef: &v1alpha1.URLSecretReference{Name: "events"}}}
		}))
		Eventually(w.says("orders", "Ready")).Should(Equal("False/SourceUnreachable"))
		Expect(w.message("orders", "Ready")()).To(Equal("the source's database: SecretNotFound: Secret events does not exist: create it with the key uri"))
		Expect(w.says("orders", "Reconciling")()).To(Equal("True/SourceUnreachable"))
		Expect(w.says("orders", "StoreReachable")()).To(Equal("True/Reachable"))
		Eventually(w.says("orders", "Degraded")).Should(Equal("True/SourceUnreachable"))
		Eventually(w.object(&appsv1.Deployment{}, "orders")).Should(Succeed(), "pods do not wait for the source")

		w.create(w.secret("events", map[string]string{"uri": events}))
		w.ready("orders")
		Eventually(w.says("orders", "Degraded")).Should(Equal("False/Healthy"))
	})

	It("that refuses the password says so, and works when it is right", func(ctx SpecContext) {
		server := postgrestest.Start(GinkgoTB())
		requirePasswords(ctx, server)
		right := fmt.Sprintf("postgres://app:right@127.0.0.1:%d/app?sslmode=disable", server.Port())
		w := newWorld(right)
		secret := w.secret("db", map[string]string{"uri": strings.Replace(right, "right", "wrong-one", 1)})
		w.create(secret, w.processor("orders"))
		Eventually(w.says("orders", "Ready")).Should(Equal("False/AuthenticationFailed"))
		Expect(w.message("orders", "Ready")()).To(And(ContainSubstring("password authentication failed"), Not(ContainSubstring("wrong-one"))))
		Expect(w.says("orders", "Reconciling")()).To(Equal("True/AuthenticationFailed"))
		secret.StringData = map[string]string{"uri": right}
		Expect(apiClient.Update(ctx, secret)).To(Succeed())
		w.ready("orders")
	})

	It("that goes down is told, restarts no pod, and is used when it is back", func(ctx SpecContext) {
		server := postgrestest.Start(GinkgoTB())
		url := server.URL("postgres")
		w := newWorld(url)
		w.create(w.secret("db", map[string]string{"uri": url}), w.processor("orders"))
		w.ready("orders")
		Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		var before, after appsv1.Deployment
		Expect(w.object(&before, "orders")()).To(Succeed())
		pods := w.podNames()

		Expect(server.Stop()).To(Succeed())
		Eventually(w.says("orders", "StoreReachable")).Should(Equal("False/ConnectionFailed"))
		Expect(w.message("orders", "StoreReachable")()).To(ContainSubstring(fmt.Sprintf("127.0.0.1:%d/postgres as postgres", server.Port())))
		Expect(w.says("orders", "Available")()).To(Equal("Unknown/Unknown"))

		again, err := server.Restart(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(again.Stop)
		w.ready("orders")
		Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		Expect(w.object(&after, "orders")()).To(Succeed())
		Expect(after.Generation).To(Equal(before.Generation), "pods were restarted")
		Expect(w.podNames()).To(Equal(pods))
	})

	It("whose tables nobody may make asks for a migration", func(ctx SpecContext) {
		url := postgrestest.New(GinkgoTB())
		w := newWorld(url)
		w.create(w.secret("db", map[string]string{"uri": url}), w.processor("orders", func(p *v1alpha1.EventProcessor) {
			p.Spec.Store.Postgres.Migrations = v1alpha1.MigrationsManual
		}))
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/MigrationRequired"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring("sluice migrate"))
		Expect(w.says("orders", "StoreReachable")()).To(Equal("True/Reachable"))
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.Store.Postgres.Migrations = v1alpha1.MigrationsAuto })
		w.ready("orders")
	})

	It("that is another one than before stays untouched until it is accepted", func(ctx SpecContext) {
		w := running()
		was := w.get("orders").Status.StoreID
		other := postgrestest.New(GinkgoTB())
		var secret corev1.Secret
		Expect(w.object(&secret, "db")()).To(Succeed())
		secret.Data = map[string][]byte{"uri": []byte(other)}
		Expect(apiClient.Update(ctx, &secret)).To(Succeed())
		w.cutOff(ctx)
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/StoreChanged"))
		Expect(w.get("orders").Status.StoreID).To(Equal(was))
		Expect(w.says("orders", "Available")()).To(Equal("Unknown/Unknown"), "nobody looks at the former store")
		Expect(w.get("orders").Status.AsOf).NotTo(BeNil())

		conn, err := pgx.Connect(ctx, other)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close(ctx)
		var groups int
		var id string
		Expect(conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM sluice.processing_group), store_id::text FROM sluice.meta").Scan(&groups, &id)).To(Succeed())
		Expect(groups).To(BeZero(), "nothing is initialised")

		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.Store.Postgres.ExpectedStoreID = id })
		Eventually(func() string { return w.get("orders").Status.StoreID }).Should(Equal(id))
		Eventually(func() int {
			Expect(conn.QueryRow(ctx, "SELECT count(*) FROM sluice.processing_group").Scan(&groups)).To(Succeed())
			return groups
		}).Should(Equal(1))
	})

	It("that was restored into another server stays untouched until it is rebased", func(ctx SpecContext) {
		w := running()
		conn, err := pgx.Connect(ctx, w.url)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close(ctx)
		here := func(system string) {
			_, err := conn.Exec(ctx, "UPDATE sluice.meta SET system_identifier = "+system)
			Expect(err).NotTo(HaveOccurred())
		}
		here("1")
		w.cutOff(ctx)
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/StoreChanged"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring("sluice rebase"))
		here("(SELECT system_identifier FROM pg_control_system())")
		w.ready("orders")
	})

	It("in which another processor has the group is not taken", func(ctx SpecContext) {
		w := running()
		w.create(w.processor("second", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Name = "orders-view" }))
		Eventually(w.says("second", "Stalled")).Should(Equal("True/GroupConflict"))
		Expect(w.message("second", "Ready")()).To(ContainSubstring("test/" + w.namespace + "/orders"))
		Expect(w.says("orders", "Ready")()).To(Equal("True/Ready"))
		w.edit("second", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Name = "second-view" })
		w.ready("second")
	})
})

// requirePasswords makes a database app for a user app with the password "right".
func requirePasswords(ctx context.Context, server *localpostgres.Server) {
	GinkgoHelper()
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close(ctx)
	file := filepath.Join(server.DataDir(), "pg_hba.conf")
	rules, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(file, append([]byte("host all app 127.0.0.1/32 scram-sha-256\n"), rules...), 0o600)).To(Succeed())
	for _, sql := range []string{"CREATE ROLE app LOGIN PASSWORD 'right'", "CREATE DATABASE app OWNER app", "SELECT pg_reload_conf()"} {
		_, err := conn.Exec(ctx, sql)
		Expect(err).NotTo(HaveOccurred())
	}
}

// cutOff ends the operator's connections, as a failover does.
func (w *world) cutOff(ctx context.Context) {
	GinkgoHelper()
	_, err := w.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'sluice-operator'`)
	Expect(err).NotTo(HaveOccurred())
}
