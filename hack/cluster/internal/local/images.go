//go:build linux

package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-project/sluice/hack/cluster/internal/images"
	"github.com/sluice-project/sluice/hack/cluster/internal/process"
)

// pauseImage has a fixed name: containerd's configuration names it.
const pauseImage = images.DefaultPrefix + "pause:1"

// ownImages brings the images of pause and CoreDNS to the nodes and returns CoreDNS's.
func (c *Cluster) ownImages(ctx context.Context) (string, error) {
	pause := filepath.Join(Dir, "images", "pause")
	if err := c.store.Build(ctx, filepath.Join(filepath.Dir(c.store.Sources), "pause"), pause); err != nil {
		return "", err
	}
	coredns, err := c.store.Ensure(ctx, "coredns")
	if err != nil {
		return "", err
	}
	var refs []string
	for _, spec := range []images.Spec{{Name: pauseImage, Files: []string{pause}}, {Name: "coredns", Files: []string{coredns}}} {
		image, err := images.Build(spec, images.DefaultPrefix)
		if err != nil {
			return "", err
		}
		if err := c.Import(ctx, image); err != nil {
			return "", err
		}
		refs = append(refs, image.Ref)
	}
	return refs[1], nil
}

// Import brings an image to every node that runs. A node that has it already, which only a tag from the content
// can tell, is left alone.
func (c *Cluster) Import(ctx context.Context, image *images.Image) error {
	archive := ""
	defer func() {
		if archive != "" {
			os.Remove(archive)
		}
	}()
	for _, n := range nodes(c.net) {
		first, err := process.ReadFile(pidFile(n.process()))
		if err != nil {
			return err
		}
		if !first.Alive() {
			return fmt.Errorf("%s does not run: `make cluster` starts it", n.Name)
		}
		ctr := func(args ...string) ([]byte, error) {
			return output(ctx, "ctr", append([]string{"--address", nodeSocket(first.PID), "--namespace", "k8s.io", "images"}, args...)...)
		}
		have, err := ctr("list", "--quiet", "name=="+image.Ref)
		if err != nil {
			return err
		}
		if image.Content && strings.TrimSpace(string(have)) == image.Ref {
			continue
		}
		if archive == "" {
			if archive, err = image.Archive(filepath.Join(Dir, "images")); err != nil {
				return err
			}
		}
		if _, err := ctr("import", archive); err != nil {
			return fmt.Errorf("importing %s into %s: %w", image.Ref, n.Name, err)
		}
	}
	return ctx.Err()
}
