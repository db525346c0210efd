// Package provider decides which cluster is used, and lets commands use it without knowing which it is: the kube
// context that CONTEXT names, kind where Docker answers, or the cluster that this program runs itself.
package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/images"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// Provider is a cluster, wherever it comes from.
type Provider interface {
	// Up brings the cluster up, or checks that it is.
	Up(ctx context.Context) error
	// Down removes what Up made.
	Down(ctx context.Context) error
	Status(ctx context.Context, out io.Writer) error
	// Kubeconfig returns the path of a file whose current context is the cluster.
	Kubeconfig(ctx context.Context) (string, error)
	// Load brings images to where the cluster's nodes find them.
	Load(ctx context.Context, all []*images.Image) error
	// Postgres starts a PostgreSQL that pods reach by PodURL and returns how the host reaches it.
	Postgres(ctx context.Context) (hostURL string, err error)
	StopPostgres(ctx context.Context, mode string) error
	StartPostgres(ctx context.Context) error
	RemovePostgres(ctx context.Context) error
}

// PodURL is how pods reach PostgreSQL, in every kind of cluster.
const PodURL = "postgres://app:app@postgres.default.svc:5432/app?sslmode=disable"

// Kind says where the cluster comes from.
type Kind string

// The three sources of clusters.
const (
	Named  Kind = "the kube context that CONTEXT names"
	InKind      = Kind("kind")
	Here        = Kind("this machine")
)

// Facts is what the choice depends on.
type Facts struct {
	Context string // $CONTEXT
	Docker  bool   // a Docker daemon answers
	OS      string // runtime.GOOS
}

// Observe gathers the facts.
func Observe() Facts {
	return Facts{Context: os.Getenv("CONTEXT"), Docker: dockerAnswers(), OS: runtime.GOOS}
}

// Choose picks the source. What is named wins; Docker comes before a cluster on the machine itself, beside which it
// cannot run.
func Choose(f Facts) (Kind, error) {
	switch {
	case f.Context != "":
		return Named, nil
	case f.Docker:
		return InKind, nil
	case f.OS == "linux":
		return Here, nil
	}
	return "", errors.New("no cluster can be had here. There are three ways: set CONTEXT to a kube context that you have; " +
		"start Docker, for kind; or use Debian Linux as root, where a cluster of our own is started")
}

// For returns the provider for this machine and environment.
func For(store *binaries.Store, log *progress.Log) (Provider, error) {
	facts := Observe()
	kind, err := Choose(facts)
	if err != nil {
		return nil, err
	}
	load, err := ParseLoad(os.Getenv("IMAGE_LOAD"))
	if err != nil {
		return nil, err
	}
	switch kind {
	case Named:
		return &named{cluster{store: store, log: log}, facts.Context, load}, nil
	case InKind:
		return &inKind{cluster{store: store, log: log}}, nil
	default:
		return newHere(store, log)
	}
}

// Load says how images get into a cluster that CONTEXT names.
type Load string

// The ways; see the README.
const (
	LoadUnset Load = ""
	LoadKind  Load = "kind"
	LoadPush  Load = "push"
	LoadNone  Load = "none"
)

// ParseLoad reads IMAGE_LOAD.
func ParseLoad(s string) (Load, error) {
	switch l := Load(s); l {
	case LoadUnset, LoadKind, LoadPush, LoadNone:
		return l, nil
	}
	return "", fmt.Errorf("IMAGE_LOAD is %q; it has to be kind (into the nodes of the kind cluster), push (to the registry in IMAGE_PREFIX) or none (the images are there)", s)
}

// Prefix is put before image names without a registry: IMAGE_PREFIX, with a slash at its end.
func Prefix(value string) string {
	if value == "" {
		return images.DefaultPrefix
	}
	if value[len(value)-1] != '/' {
		value += "/"
	}
	return value
}

// dockerAnswers looks where DOCKER_HOST says, if it names a socket, else where Docker is by default.
func dockerAnswers() bool {
	path := "/var/run/docker.sock"
	if host := os.Getenv("DOCKER_HOST"); len(host) > 7 && host[:7] == "unix://" {
		path = host[7:]
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
