// Package e2e tests Sluice as users have it: installed by its charts, on a real cluster, with real pods and a real
// database.
package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sluice-project/sluice/internal/system"
)

// sluice is what all specs share: the cluster, the database, the operator.
var sluice = &system.System{Root: "../.."}

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(120 * time.Second)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	RunSpecs(t, "end to end")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	for _, step := range []func(context.Context) error{sluice.Up, sluice.StartDatabase, sluice.BuildImages, sluice.InstallChart} {
		Expect(step(ctx)).To(Succeed())
	}
	DeferCleanup(sluice.Database.Close)
	plugin = filepath.Join(GinkgoT().TempDir(), "kubectl-sluice")
	Expect(sluice.Build(ctx, plugin, "./cmd/sluice")).To(Succeed()) // the images' program: only linked anew
}, NodeTimeout(10*time.Minute))

// plugin is kubectl's, as users install it.
var plugin string

// plugin runs it in the space's namespace.
func (s *space) plugin(ctx context.Context, args ...string) (string, error) {
	return sluice.Run(ctx, plugin, append(args, "--namespace", s.namespace)...)
}

// space is a spec's namespace with a database of its own.
type space struct {
	namespace string
	url       string // for pods
}

// newSpace makes a namespace that admits pods of the restricted profile only, and a database, and removes both.
func newSpace(ctx context.Context, name string) *space {
	GinkgoHelper()
	s := &space{namespace: "e2e-" + name, url: strings.Replace(system.PodURL, "/app?", "/e2e_"+name+"?", 1)}
	Expect(sluice.Kubectl(ctx, "delete", "namespace", s.namespace, "--ignore-not-found", "--wait")).Error().NotTo(HaveOccurred())
	for _, sql := range []string{"DROP DATABASE IF EXISTS e2e_" + name + " WITH (FORCE)", "CREATE DATABASE e2e_" + name} {
		Expect(sluice.Database.Exec(ctx, sql)).Error().NotTo(HaveOccurred())
	}
	Expect(sluice.Apply(ctx, "default", fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n", s.namespace))).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		if CurrentSpecReport().Failed() {
			s.tell(ctx)
		}
		Expect(sluice.Kubectl(ctx, "delete", "namespace", s.namespace, "--wait=false")).Error().NotTo(HaveOccurred())
	}, NodeTimeout(2*time.Minute))
	return s
}

// tell prints what helps to understand a failure.
func (s *space) tell(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "eventprocessors,pods,events", "-o", "wide"},
		{"get", "eventprocessors", "-o", "jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}"},
		{"logs", "-l", "app.kubernetes.io/managed-by=sluice", "--tail=40", "--prefix", "--all-containers"},
	} {
		out, err := sluice.Kubectl(ctx, append([]string{"--namespace", s.namespace}, args...)...)
		GinkgoWriter.Println(out, err)
	}
	out, err := sluice.Kubectl(ctx, "logs", "--namespace", "sluice-system", "-l", "app.kubernetes.io/name=sluice", "--tail=60")
	GinkgoWriter.Println(out, err)
}

func (s *space) apply(ctx context.Context, manifests string) {
	GinkgoHelper()
	Expect(sluice.Apply(ctx, s.namespace, manifests)).To(Succeed())
}

func (s *space) secret(ctx context.Context, url string) {
	GinkgoHelper()
	s.apply(ctx, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: payments-db}\nstringData: {uri: %q}\n", url))
}

func (s *space) kubectl(ctx context.Context, args ...string) string {
	GinkgoHelper()
	out, err := sluice.Kubectl(ctx, append([]string{"--namespace", s.namespace}, args...)...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

func (s *space) processor(name string) string { return "kubernetes/" + s.namespace + "/" + name }

// ready waits until the spec of a processor as it is now is in effect.
func (s *space) ready(ctx context.Context, name string) {
	GinkgoHelper()
	Eventually(ctx, func() bool {
		out, err := sluice.Kubectl(ctx, "--namespace", s.namespace, "get", "eventprocessor", name, "-o",
			`jsonpath={.metadata.generation} {.status.observedGeneration} {.status.conditions[?(@.type=="Ready")].status}`)
		now := strings.Fields(out)
		return err == nil && len(now) == 3 && now[0] == now[1] && now[2] == "True"
	}).Should(BeTrue(), "the processor %s should become ready", name)
}

// condition is "status reason: message" of a condition, for matching.
func (s *space) condition(ctx context.Context, name, condition string) func() string {
	return func() string {
		out, err := sluice.Kubectl(ctx, "--namespace", s.namespace, "get", "eventprocessor", name, "-o",
			fmt.Sprintf(`jsonpath={range .status.conditions[?(@.type=="%s")]}{.status} {.reason}: {.message}{end}`, condition))
		if err != nil {
			return err.Error()
		}
		return out
	}
}

// pods are the names of a processor's pods with how often their containers were started again.
func (s *space) pods(ctx context.Context, name string) string {
	GinkgoHelper()
	return s.kubectl(ctx, "get", "pods", "-l", "sluice.dev/processor="+name, "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
}

// killer finds a pod's container, and returns what kills it with SIGKILL on its node, for which no API server is needed.
func (s *space) killer(ctx context.Context, pod string) func(context.Context) {
	GinkgoHelper()
	out := s.kubectl(ctx, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName} {.status.containerStatuses[0].containerID}")
	node, container, found := strings.Cut(out, " containerd://")
	Expect(found).To(BeTrue(), "%q should name a node and a container of containerd", out)
	return func(ctx context.Context) {
		GinkgoHelper()
		_, err := sluice.Cluster(ctx, "enter", node, "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)
		Expect(err).NotTo(HaveOccurred())
	}
}
