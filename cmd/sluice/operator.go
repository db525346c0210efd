package main

import (
	"fmt"

	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/sluice-project/sluice/controllers"
)

// operatorCommand runs in the operator's pod.
func operatorCommand() *cobra.Command {
	var o controllers.Options
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Run the operator (in its Deployment)",
		Long: "Run the operator until SIGTERM: create the pods of EventProcessors and assign their segments.\n" +
			"It talks to the cluster of its service account, or else of the kubeconfig. Logs are JSON, on stderr.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctrl.SetLogger(zap.New())
			kube, err := ctrl.GetConfig()
			if err != nil {
				return fmt.Errorf("finding the cluster: %w", err)
			}
			return controllers.Run(cmd.Context(), kube, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.LeaderElect, "leader-elect", false, "elect a leader, so that several replicas may run")
	f.StringVar(&o.LeaderElectionNamespace, "leader-election-namespace", "", "namespace of the leases, including that of the installation's ID (default: the operator's own)")
	f.StringVar(&o.WorkerImage, "worker-image", "", "image of workers whose template has none (required)")
	f.StringVar(&o.MetricsAddress, "metrics-bind-address", ":8080", "address to serve metrics on, 0 for none")
	f.StringVar(&o.ProbeAddress, "health-probe-bind-address", ":8081", "address to serve /healthz and /readyz on, 0 for none")
	f.StringArrayVar(&o.WatchNamespaces, "watch-namespace", nil, "namespace to watch; may be repeated (default: all)")
	f.StringVar(&o.ClusterName, "cluster-name", "kubernetes", "name of this cluster in stores; clusters that share a store need different names")
	f.StringArrayVar(&o.FormerInstallations, "former-installation", nil, "ID of an installation that this one replaces: its processors of the same names are taken over; may be repeated")
	f.IntVar(&o.MaxStoreSessions, "max-store-sessions", 64, "how many stores to be connected to at a time; others take turns")
	f.BoolVar(&o.AllowLoopbackStores, "allow-loopback-stores", false, "connect to stores at loopback and link-local addresses too")
	if err := cmd.MarkFlagRequired("worker-image"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
