package provider

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/images"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
	"github.com/sluice-project/sluice/internal/ports"
)

// cluster is what the clusters have in common that are reached only through their API.
type cluster struct {
	store *binaries.Store
	log   *progress.Log
}

// tool builds one of our programs if need be and runs it.
func (c cluster) tool(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	program, err := c.store.Ensure(ctx, name)
	if err != nil {
		return nil, err
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}

func (c cluster) nodes(ctx context.Context, kubeconfig string, out io.Writer) error {
	table, err := c.tool(ctx, nil, "kubectl", "--kubeconfig", kubeconfig, "get", "nodes", "-o", "wide")
	if err != nil {
		return err
	}
	_, err = out.Write(table)
	return err
}

// loadIntoKind brings images into all nodes of a kind cluster.
func (c cluster) loadIntoKind(ctx context.Context, clusterName string, all []*images.Image) error {
	dir, err := os.MkdirTemp("", "sluice-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, image := range all {
		archive, err := image.Archive(dir)
		if err != nil {
			return err
		}
		if _, err := c.tool(ctx, nil, "kind", "load", "image-archive", archive, "--name", clusterName); err != nil {
			return err
		}
	}
	return nil
}

//go:embed postgres.yaml
var postgresManifest []byte

// startPostgres runs PostgreSQL as a pod.
func (c cluster) startPostgres(ctx context.Context, kubeconfig string) error {
	if _, err := c.tool(ctx, postgresManifest, "kubectl", "--kubeconfig", kubeconfig, "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	_, err := c.tool(ctx, nil, "kubectl", "--kubeconfig", kubeconfig, "-n", "default", "rollout", "status", "statefulset/postgres", "--timeout=300s")
	return err
}

func (c cluster) scalePostgres(ctx context.Context, kubeconfig, replicas string) error {
	_, err := c.tool(ctx, nil, "kubectl", "--kubeconfig", kubeconfig, "-n", "default", "scale", "statefulset/postgres", "--replicas="+replicas)
	return err
}

func (c cluster) removePostgres(ctx context.Context, kubeconfig string) error {
	_, err := c.tool(ctx, nil, "kubectl", "--kubeconfig", kubeconfig, "-n", "default", "delete", "--ignore-not-found",
		"service/postgres", "statefulset/postgres", "persistentvolumeclaim/data-postgres-0")
	return err
}

// forwarded is how the host reaches a PostgreSQL that runs as a pod: through a forward that the
// caller runs. It refuses if anything else listens where the forward has to.
func (c cluster) forwarded(kubeconfig string) (string, error) {
	const address = "127.0.0.1:15432"
	var taken *ports.InUseError
	if err := ports.CheckFree(address); errors.As(err, &taken) {
		if slices.ContainsFunc(taken.Holders, func(p ports.Process) bool { return !strings.Contains(p.Command, "port-forward") }) {
			return "", fmt.Errorf("%w: stop it, kubectl has to listen there to forward connections to PostgreSQL", err)
		}
	} else if err != nil {
		return "", err
	}
	c.log.Say("The host reaches it while this runs: kubectl --kubeconfig %s -n default port-forward service/postgres 15432:5432", kubeconfig)
	return "postgres://app:app@" + address + "/app?sslmode=disable", nil
}

// writeKubeconfig keeps a file with credentials in the cache, readable by its owner only.
func writeKubeconfig(name string, content []byte) (string, error) {
	path, err := kubeconfigPath(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	part := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(part, content, 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(part, path)
}

func kubeconfigPath(name string) (string, error) {
	cache, err := binaries.CacheDir()
	if err != nil {
		return "", err
	}
	safe := strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator || r == ':' || r == '@' {
			return '-'
		}
		return r
	}, name)
	return filepath.Join(cache, "kubeconfigs", safe), nil
}
