package provider

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/hack/cluster/internal/images"
)

// kindName is the cluster's name to kind.
const kindName = "sluice"

// kindConfig asks for the same shape as our own cluster: two nodes that run pods.
const kindConfig = `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
- role: worker
- role: worker
`

// inKind is a cluster of kind's, in Docker.
type inKind struct{ cluster }

func (k *inKind) Up(ctx context.Context) error {
	exists, err := k.exists(ctx)
	if err != nil {
		return err
	}
	if exists {
		return k.log.Step("asking kind's cluster "+kindName, func() error { return k.ready(ctx) })
	}
	plan := []string{"create kind's cluster " + kindName + " in Docker, which downloads its node image"}
	if err := k.log.Confirm(plan, os.Stdin, os.Getenv("YES") == "1"); err != nil {
		return err
	}
	return k.log.Step("creating kind's cluster "+kindName, func() error {
		path, err := k.Kubeconfig(ctx)
		if err != nil {
			return err
		}
		_, err = k.tool(ctx, []byte(kindConfig), "kind", "create", "cluster", "--name", kindName, "--config", "-",
			"--kubeconfig", path, "--wait", "180s")
		return err
	})
}

func (k *inKind) ready(ctx context.Context) error {
	path, err := k.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	if _, err := k.tool(ctx, nil, "kind", "export", "kubeconfig", "--name", kindName, "--kubeconfig", path); err != nil {
		return err
	}
	_, err = k.tool(ctx, nil, "kubectl", "--kubeconfig", path, "get", "--raw", "/readyz")
	return err
}

func (k *inKind) exists(ctx context.Context) (bool, error) {
	out, err := k.tool(ctx, nil, "kind", "get", "clusters")
	return slices.Contains(strings.Fields(string(out)), kindName), err
}

func (k *inKind) Down(ctx context.Context) error {
	return k.log.Step("deleting kind's cluster "+kindName, func() error {
		path, err := k.Kubeconfig(ctx)
		if err != nil {
			return err
		}
		if _, err := k.tool(ctx, nil, "kind", "delete", "cluster", "--name", kindName, "--kubeconfig", path); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (k *inKind) Status(ctx context.Context, out io.Writer) error {
	path, err := k.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	return k.nodes(ctx, path, out)
}

// Kubeconfig is a file of our own, so that the user's is left alone.
func (k *inKind) Kubeconfig(context.Context) (string, error) {
	path, err := kubeconfigPath("kind-" + kindName)
	if err != nil {
		return "", err
	}
	return path, os.MkdirAll(path[:strings.LastIndex(path, string(os.PathSeparator))], 0o700)
}

func (k *inKind) Load(ctx context.Context, all []*images.Image) error {
	return k.loadIntoKind(ctx, kindName, all)
}

func (k *inKind) Postgres(ctx context.Context) (string, error) {
	path, err := k.Kubeconfig(ctx)
	if err != nil {
		return "", err
	}
	if err := k.startPostgres(ctx, path); err != nil {
		return "", err
	}
	return k.forwarded(path)
}

func (k *inKind) StartPostgres(ctx context.Context) error { return k.scale(ctx, "1") }

func (k *inKind) StopPostgres(ctx context.Context, _ string) error { return k.scale(ctx, "0") }

func (k *inKind) scale(ctx context.Context, replicas string) error {
	path, err := k.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	return k.scalePostgres(ctx, path, replicas)
}

func (k *inKind) RemovePostgres(ctx context.Context) error {
	path, err := k.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	return k.removePostgres(ctx, path)
}
