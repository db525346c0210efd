package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
	"github.com/sluice-project/sluice/controllers/stores/postgres"
)

// Options of the operator.
type Options struct {
	// LeaderElect lets several replicas run, of which one works.
	LeaderElect bool
	// LeaderElectionNamespace holds the lease, and the one with the installation's ID; the operator's own namespace by default.
	LeaderElectionNamespace string
	// WorkerImage is the image of workers whose template has none.
	WorkerImage string
	// MetricsAddress and ProbeAddress to listen on; "0" turns them off.
	MetricsAddress, ProbeAddress string
	// WatchNamespaces are all namespaces when empty.
	WatchNamespaces []string
	// ClusterName names this Kubernetes cluster in stores. Clusters that share a store need different ones.
	ClusterName string
	// FormerInstallations are IDs of installations that this one replaces: it takes over what they have under the same names.
	FormerInstallations []string
	// MaxStoreSessions is how many stores the operator is connected to at a time.
	MaxStoreSessions int
	// AllowLoopbackStores lets the operator connect to loopback and link-local addresses.
	AllowLoopbackStores bool

	// MaxStorePause between attempts to reach a store, 15 s by default.
	MaxStorePause time.Duration
	// GiveUpAfter bounds a deletion that waits for its store, 5 min by default.
	GiveUpAfter time.Duration
	// Grace is how long an outage of the store does not count for conditions, 20 s by default.
	Grace time.Duration
	// SkipNameValidation lets one process run several operators, one after the other, as tests do.
	SkipNameValidation bool
}

const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Scheme of the kinds that the operator knows.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("making the scheme: %w", err)
	}
	return scheme, nil
}

// Run runs the operator until the context ends.
func Run(ctx context.Context, kube *rest.Config, o Options) error {
	if o.WorkerImage == "" {
		return errors.New("--worker-image is empty: name the image that runs workers whose template has none")
	}
	manager, err := newManager(kube, o)
	if err != nil {
		return err
	}
	installation, err := findInstallation(ctx, kube, o)
	switch {
	case ctx.Err() != nil: // it was stopped meanwhile
		return nil //nolint:nilerr // whatever the error is, it comes of that
	case err != nil:
		return err
	}
	manager.GetLogger().Info("Found this installation's ID", "installation", installation, "cluster", o.ClusterName)
	if err := addReconciler(manager, installation, o); err != nil {
		return err
	}
	if err := errors.Join(manager.AddHealthzCheck("healthz", healthz.Ping), manager.AddReadyzCheck("readyz", healthz.Ping)); err != nil {
		return fmt.Errorf("adding the probes: %w", err)
	}
	return manager.Start(ctx)
}

func newManager(kube *rest.Config, o Options) (ctrl.Manager, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	lease, renew, retry := leaseDuration, renewDeadline, retryPeriod
	manager, err := ctrl.NewManager(kube, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions(o.WatchNamespaces),
		Client:                        clientOptions(),
		Metrics:                       metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:        o.ProbeAddress,
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              v1alpha1.OperatorLease,
		LeaderElectionNamespace:       o.LeaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true, // the process ends with the manager
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		Controller:                    config.Controller{SkipNameValidation: &o.SkipNameValidation},
	})
	if err != nil {
		return nil, fmt.Errorf("starting the manager: %w", err)
	}
	return manager, nil
}

// findInstallation asks the API server itself: the manager's cache does not run yet.
func findInstallation(ctx context.Context, kube *rest.Config, o Options) (string, error) {
	namespace, err := ownNamespace(o.LeaderElectionNamespace)
	if err != nil {
		return "", err
	}
	scheme, err := Scheme()
	if err != nil {
		return "", err
	}
	c, err := client.New(kube, client.Options{Scheme: scheme})
	if err != nil {
		return "", fmt.Errorf("connecting to the API server: %w", err)
	}
	return installationID(ctx, c, namespace)
}

func addReconciler(manager ctrl.Manager, installation string, o Options) error {
	observed := &notices{}
	s := stores.New(stores.Options{
		Backend:             postgres.Backend{Secrets: postgres.SecretsOf(manager.GetAPIReader()), AllowLoopback: o.AllowLoopbackStores},
		Changed:             observed.add,
		Planner:             "operator/" + hostname(),
		Installation:        installation,
		MaxSessions:         o.MaxStoreSessions,
		MaxPause:            o.MaxStorePause,
		Metrics:             operatorMetrics(),
		Log:                 manager.GetLogger().WithName("stores"),
		FormerInstallations: o.FormerInstallations,
	})
	if err := manager.Add(s); err != nil {
		return fmt.Errorf("adding the stores: %w", err)
	}
	r := &Reconciler{
		Client:       manager.GetClient(),
		Reader:       manager.GetAPIReader(),
		Events:       manager.GetEventRecorder(FieldOwner),
		Stores:       s,
		Clock:        clock.RealClock{},
		Cluster:      o.ClusterName,
		Installation: installation,
		Image:        o.WorkerImage,
		GiveUpAfter:  cmp.Or(o.GiveUpAfter, 5*time.Minute),
		Grace:        cmp.Or(o.Grace, defaultGrace),
	}
	return r.setup(manager, observed)
}

// operatorMetrics are registered once a process.
var operatorMetrics = sync.OnceValue(func() *stores.Metrics { return stores.NewMetrics(metrics.Registry) })

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
