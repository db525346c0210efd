//go:build linux

package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// Down removes the cluster and PostgreSQL with all their data, in whatever state they are. Programs in the cache and
// packages stay.
func Down(ctx context.Context, store *binaries.Store, log *progress.Log) error {
	if os.Geteuid() != 0 {
		return errors.New("removing the cluster needs root, as making it did")
	}
	c, err := Open(ctx, store, log, false)
	if errors.Is(err, ErrNone) {
		left, unknown := cgroup.Processes(cgroupRoot)
		if unknown != nil {
			return unknown
		}
		if len(left) == 0 {
			log.Say("There is no cluster on this machine.")
			return nil
		}
		c, err = Open(ctx, store, log, true) // its folder is gone, but not its processes
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return log.Step("removing the cluster", func() error { return c.remove(ctx) })
}

// remove goes on after an error, so that as little as possible is left; but the state folder, by which a second attempt
// knows what to undo, goes last and only if all else is gone.
func (c *Cluster) remove(ctx context.Context) error {
	err := errors.Join(
		c.stopPostgres(unix.SIGQUIT),
		cgroup.Kill(cgroupRoot, 30*time.Second),
		cgroup.Remove(cgroupRoot),
		removeNetwork(ctx, c.net),
		restoreKernelSettings(),
		removeMountPoints(),
		unmountBelow(Dir),
	)
	if err := errors.Join(err, ctx.Err()); err != nil {
		return fmt.Errorf("something is left, run this again: %w", err)
	}
	return os.RemoveAll(Dir)
}

// unmountBelow takes off what is mounted below dir on the host. There should be nothing: nodes mount in namespaces of
// their own. But the folder is about to be deleted, and no other file system may go with it.
func unmountBelow(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}
