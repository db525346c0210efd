package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sluice-project/sluice/hack/cluster/internal/images"
)

// named is a cluster that somebody else made. It is used and never started or removed.
type named struct {
	cluster
	context string
	load    Load
}

func (n *named) Up(ctx context.Context) error {
	return n.log.Step("asking the cluster of context "+n.context, func() error {
		path, err := n.Kubeconfig(ctx)
		if err != nil {
			return err
		}
		_, err = n.tool(ctx, nil, "kubectl", "--kubeconfig", path, "get", "--raw", "/readyz")
		return err
	})
}

func (n *named) Down(context.Context) error {
	n.log.Say("The cluster of context %s was not made by this program and stays.", n.context)
	path, err := kubeconfigPath(n.context)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n *named) Status(ctx context.Context, out io.Writer) error {
	path, err := n.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	return n.nodes(ctx, path, out)
}

// Kubeconfig copies the context out of the user's configuration, so that nobody has to know its name to use it and the
// user's current context stays what it is.
func (n *named) Kubeconfig(ctx context.Context) (string, error) {
	content, err := n.tool(ctx, nil, "kubectl", "config", "view", "--minify", "--flatten", "--context", n.context)
	if err != nil {
		return "", fmt.Errorf("looking for the kube context that CONTEXT names: %w", err)
	}
	return writeKubeconfig(n.context, content)
}

func (n *named) Load(ctx context.Context, all []*images.Image) error {
	switch n.load {
	case LoadNone:
		return nil
	case LoadPush:
		for _, image := range all {
			if err := image.Push(ctx); err != nil {
				return err
			}
		}
		return nil
	case LoadKind:
		name, isKind := strings.CutPrefix(n.context, "kind-")
		if !isKind {
			return fmt.Errorf("IMAGE_LOAD=kind needs a context that kind made (kind-…), and CONTEXT is %s", n.context)
		}
		return n.loadIntoKind(ctx, name, all)
	}
	return errors.New("with CONTEXT, say by IMAGE_LOAD how images get to the cluster: kind (into the nodes of the kind cluster), push (to the registry in IMAGE_PREFIX) or none (they are there)")
}

func (n *named) Postgres(ctx context.Context) (string, error) {
	path, err := n.Kubeconfig(ctx)
	if err != nil {
		return "", err
	}
	if err := n.startPostgres(ctx, path); err != nil {
		return "", err
	}
	return n.forwarded(path)
}

func (n *named) StartPostgres(ctx context.Context) error { return n.scale(ctx, "1") }

func (n *named) StopPostgres(ctx context.Context, _ string) error { return n.scale(ctx, "0") }

func (n *named) scale(ctx context.Context, replicas string) error {
	path, err := n.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	return n.scalePostgres(ctx, path, replicas)
}

func (n *named) RemovePostgres(ctx context.Context) error {
	path, err := n.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	return n.removePostgres(ctx, path)
}
