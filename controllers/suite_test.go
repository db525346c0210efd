package controllers_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/controllers"
)

var (
	kube      *rest.Config
	apiClient client.Client
	operator  *runningOperator
)

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Operator")
}

var _ = BeforeSuite(func() {
	Expect(os.Getenv("KUBEBUILDER_ASSETS")).NotTo(BeEmpty(),
		"KUBEBUILDER_ASSETS has to name a folder with etcd and kube-apiserver: run the tests by make test, which builds them")
	SetDefaultEventuallyTimeout(20 * time.Second)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	ctrl.SetLogger(zap.New(zap.WriteTo(GinkgoWriter)))

	server := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "config", "crd")}, ErrorIfCRDPathMissing: true}
	var err error
	kube, err = server.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(server.Stop)

	scheme, err := controllers.Scheme()
	Expect(err).NotTo(HaveOccurred())
	apiClient, err = client.New(kube, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	restrict()
	operator = startOperator()
	DeferCleanup(func() { operator.stop() })
})

// restrict makes a user of the operator's role: what it may not do fails here as it does in a cluster.
func restrict() {
	GinkgoHelper()
	data, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	Expect(err).NotTo(HaveOccurred())
	var role rbacv1.ClusterRole
	Expect(yaml.UnmarshalStrict(data, &role)).To(Succeed())
	Expect(apiClient.Create(context.Background(), &role)).To(Succeed())
	Expect(apiClient.Create(context.Background(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: operatorUser}},
	})).To(Succeed())
	data, err = os.ReadFile(filepath.Join("..", "config", "rbac", "leader_election_role.yaml"))
	Expect(err).NotTo(HaveOccurred())
	own := rbacv1.Role{}
	Expect(yaml.UnmarshalStrict(data, &own)).To(Succeed())
	own.Namespace = operatorNamespace
	Expect(apiClient.Create(context.Background(), &own)).To(Succeed())
	Expect(apiClient.Create(context.Background(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: own.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: own.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: operatorUser}},
	})).To(Succeed())
}

const (
	operatorUser      = "sluice-operator"
	operatorNamespace = "kube-public"
)

// giveUpAfter is short here, so that a test can wait for it.
const giveUpAfter = 6 * time.Second

// grace is short here, and longer than it takes to connect again.
const grace = 3 * time.Second

type runningOperator struct {
	cancel context.CancelFunc
	ended  chan error
}

// startOperator starts one whose requests pass through what wraps them.
func startOperator(wraps ...func(http.RoundTripper) http.RoundTripper) *runningOperator {
	return startOperatorWith(func(*controllers.Options) {}, wraps...)
}

// startOperatorWith starts one with other options.
func startOperatorWith(change func(*controllers.Options), wraps ...func(http.RoundTripper) http.RoundTripper) *runningOperator {
	ctx, cancel := context.WithCancel(context.Background())
	o := &runningOperator{cancel, make(chan error, 1)}
	kube := rest.CopyConfig(kube)
	kube.Impersonate.UserName = operatorUser
	for _, wrap := range wraps {
		kube.Wrap(wrap)
	}
	options := controllers.Options{
		WorkerImage: "sluice.example/sluice:test", ClusterName: "test", LeaderElectionNamespace: operatorNamespace, MaxStoreSessions: 64, AllowLoopbackStores: true,
		MetricsAddress: "0", ProbeAddress: "0", MaxStorePause: time.Second, GiveUpAfter: giveUpAfter, SkipNameValidation: true, Grace: grace,
	}
	change(&options)
	go func() { o.ended <- controllers.Run(ctx, kube, options) }()
	return o
}

func (o *runningOperator) stop() {
	o.cancel()
	Eventually(o.ended).Should(Receive(BeNil()), "the operator ends cleanly")
}
