package provider

import (
	"context"
	"io"
	"os"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/images"
	"github.com/sluice-project/sluice/hack/cluster/internal/local"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// here is the cluster that this program runs itself.
type here struct {
	store *binaries.Store
	log   *progress.Log
}

func newHere(store *binaries.Store, log *progress.Log) (Provider, error) {
	return &here{store: store, log: log}, nil
}

func (h *here) with(ctx context.Context, f func(*local.Cluster) error) error {
	c, err := local.Open(ctx, h.store, h.log, false)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func (h *here) Up(ctx context.Context) error   { return local.Up(ctx, h.store, h.log) }
func (h *here) Down(ctx context.Context) error { return local.Down(ctx, h.store, h.log) }

func (h *here) Status(ctx context.Context, out io.Writer) error {
	return h.with(ctx, func(c *local.Cluster) error { return c.Status(ctx, out) })
}

func (h *here) Kubeconfig(context.Context) (string, error) {
	if _, err := os.Stat(local.Kubeconfig()); err != nil {
		return "", local.ErrNone
	}
	return local.Kubeconfig(), nil
}

func (h *here) Load(ctx context.Context, all []*images.Image) error {
	return h.with(ctx, func(c *local.Cluster) error {
		for _, image := range all {
			if err := c.Import(ctx, image); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *here) Postgres(ctx context.Context) (string, error) {
	return local.HostURL, local.Postgres(ctx, h.store, h.log)
}

func (h *here) StopPostgres(ctx context.Context, mode string) error {
	return h.with(ctx, func(c *local.Cluster) error { return c.StopPostgres(mode) })
}

func (h *here) StartPostgres(ctx context.Context) error {
	return h.with(ctx, func(c *local.Cluster) error { return c.StartPostgres(ctx) })
}

func (h *here) RemovePostgres(ctx context.Context) error {
	return h.with(ctx, func(c *local.Cluster) error { return c.RemovePostgres(ctx) })
}
