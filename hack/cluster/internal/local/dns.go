//go:build linux

package local

import (
	"context"
	"fmt"
	"strings"
)

// ensureDNS runs CoreDNS and waits until it serves.
func (c *Cluster) ensureDNS(ctx context.Context, image string) error {
	err := c.apply(ctx, "coredns.yaml", map[string]string{
		"Image": image, "Node": nodes(c.net)[0].Name, "Service": c.net.dnsService(), "Upstream": strings.Join(hostResolvers(), " "),
	})
	if err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, nil, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s"); err != nil {
		state, _ := c.kubectl(ctx, nil, "-n", "kube-system", "describe", "pods", "-l", "k8s-app=kube-dns")
		return fmt.Errorf("%w\n%s", err, state)
	}
	return nil
}
