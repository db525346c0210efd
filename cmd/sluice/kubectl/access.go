// Package kubectl holds the commands that talk to a cluster: what is there, and edits of what is declared. The binary is a
// plugin of kubectl when it is called kubectl-sluice.
//
// Commands that change something edit the field that declares it, and nothing else. Where a GitOps tool manages that field
// they change nothing: they print what to commit.
package kubectl

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// clusterFlags say which cluster and namespace a command is for, as kubectl's own do.
type clusterFlags struct{ kubeconfig, context, namespace string }

func (f *clusterFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, or ~/.kube/config)")
	cmd.Flags().StringVar(&f.context, "context", "", "context of the kubeconfig")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "namespace (default: the context's)")
}

// cluster is where a command looks.
type cluster struct {
	client.Client
	pods      kubernetes.Interface
	namespace string
}

func (f *clusterFlags) connect() (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.context}
	overrides.Context.Namespace = f.namespace
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	namespace, _, err := config.Namespace()
	if err != nil && !clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("finding the namespace: %w", err)
	}
	rest, err := config.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("this command is for a cluster, not for sluice dev, and there is no kubeconfig: name one with --kubeconfig or KUBECONFIG")
	}
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	rest.QPS, rest.Burst = 50, 100 // two requests a pod
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	c := &cluster{namespace: namespace}
	if c.Client, err = client.New(rest, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	if c.pods, err = kubernetes.NewForConfig(rest); err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	return c, nil
}
