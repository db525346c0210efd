//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// Cluster is the one on this machine, whether it runs or not. While it is open, no other process changes it.
type Cluster struct {
	store *binaries.Store
	log   *progress.Log
	net   Net
	lock  *os.File
}

// ErrNone is returned by what needs a cluster when there is none.
var ErrNone = errors.New("there is no cluster on this machine: run `make cluster` first")

// Open takes the cluster's lock, which the kernel drops when this process ends, however it ends. With create, the state
// folder is made if it is missing; without, ErrNone is returned then.
func Open(ctx context.Context, store *binaries.Store, log *progress.Log, create bool) (*Cluster, error) {
	lock, err := lockDir(ctx, log, create)
	if err != nil {
		return nil, err
	}
	n, err := loadNet()
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Cluster{store: store, log: log, net: n, lock: lock}, nil
}

// Close lets others at the cluster.
func (c *Cluster) Close() { c.lock.Close() }

func lockDir(ctx context.Context, log *progress.Log, create bool) (*os.File, error) {
	for waited := false; ; {
		if create {
			if err := os.MkdirAll(Dir, 0o755); err != nil {
				return nil, err
			}
		}
		dir, err := os.Open(Dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil, ErrNone
		}
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(dir, Dir) { // not removed by a `down` meanwhile
			return dir, nil
		}
		dir.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", Dir, err)
		}
		if !waited {
			log.Say("waiting for another command on the cluster")
			waited = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func sameFile(open *os.File, path string) bool {
	a, errA := open.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// kubectl runs kubectl as the administrator.
func (c *Cluster) kubectl(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	program, err := c.store.Ensure(ctx, "kubectl")
	if err != nil {
		return nil, err
	}
	return pipe(ctx, stdin, program, append([]string{"--kubeconfig", Kubeconfig()}, args...)...)
}

// apply applies a rendered template.
func (c *Cluster) apply(ctx context.Context, template string, data any) error {
	manifest, err := render(template, data)
	if err != nil {
		return err
	}
	_, err = c.kubectl(ctx, manifest, "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// node finds a node by its name or number.
func (c *Cluster) node(name string) (Node, error) {
	for _, n := range nodes(c.net) {
		if name == n.Name || name == fmt.Sprint(n.Number) {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("no node is called %q; there are sluice-1 and sluice-2", name)
}
