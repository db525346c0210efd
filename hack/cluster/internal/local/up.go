//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
	"github.com/sluice-project/sluice/hack/cluster/internal/process"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// programs are those that a cluster needs.
var programs = []string{
	"kube-apiserver", "etcd", "kubectl", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns",
}

// Up brings the cluster up from whatever state it is in: none, whole, half built by an Up that was killed, or partly
// dead. It asks before it installs or builds.
func Up(ctx context.Context, store *binaries.Store, log *progress.Log) error {
	begin := time.Now()
	if err := Supported(); err != nil {
		return err
	}
	if err := prepare(ctx, store, log, clusterRequirements, programs); err != nil {
		return err
	}
	if err := dropEarlierBoot(ctx, store, log); err != nil {
		return err
	}
	c, err := Open(ctx, store, log, true)
	if err != nil {
		return err
	}
	defer c.Close()
	started, err := c.bringUp(ctx)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	took := progress.Seconds(time.Since(begin))
	if len(started) == 0 {
		log.Say("The cluster was up already; checked in %s: control plane, both nodes and DNS answer.", took)
	} else {
		log.Say("The cluster is up after %s; started %s.", took, strings.Join(started, ", "))
	}
	return nil
}

// prepare asks for, installs and builds what is missing.
func prepare(ctx context.Context, store *binaries.Store, log *progress.Log, needs []requirement, names []string) error {
	packages := missingPackages(needs, fileExists)
	missing, err := store.Missing(names...)
	if err != nil {
		return err
	}
	if err := log.Confirm(plan(packages, missing, store.Cache), os.Stdin, os.Getenv("YES") == "1"); err != nil {
		return err
	}
	if len(packages) > 0 {
		step := "installing " + strings.Join(packages, " ")
		if err := log.Step(step, func() error { return install(ctx, log.Out, packages) }); err != nil {
			return err
		}
	}
	for _, p := range missing {
		if _, err := store.Ensure(ctx, p.Name); err != nil {
			return err
		}
	}
	return nil
}

// plan says in words what prepare is going to do.
func plan(packages []string, missing []binaries.Program, cache string) []string {
	var lines []string
	if len(packages) > 0 {
		lines = append(lines, "install by apt-get, removing nothing: "+strings.Join(packages, " "))
	}
	if len(missing) > 0 {
		names := make([]string, len(missing))
		for i, p := range missing {
			names[i] = p.Name
		}
		lines = append(lines, fmt.Sprintf("build from source, with Go modules from GOPROXY, into %s: %s", cache, strings.Join(names, " ")))
	}
	if len(lines) > 0 {
		lines = append(lines, "keep the state of the cluster in "+Dir+" until `make cluster-down`")
	}
	return lines
}

// dropEarlierBoot removes what a cluster left that was running when the machine was switched off: its processes,
// networks and mounts are gone, and etcd does not promise its data after that.
func dropEarlierBoot(ctx context.Context, store *binaries.Store, log *progress.Log) error {
	boot, err := process.BootID()
	if err != nil {
		return err
	}
	then, err := os.ReadFile(confFile("boot"))
	if errors.Is(err, os.ErrNotExist) || string(then) == boot {
		return nil
	}
	if err != nil {
		return err
	}
	log.Say("The machine was started again since the cluster was made; it is made anew.")
	return Down(ctx, store, log)
}

// bringUp does the work of Up and returns the names of what it had to start.
func (c *Cluster) bringUp(ctx context.Context) ([]string, error) {
	if err := c.log.Step("keys, configuration, network", func() error { return c.configure(ctx) }); err != nil {
		return nil, err
	}
	if err := c.checkPorts(); err != nil {
		return nil, err
	}
	var started []string
	if err := c.log.Step("control plane", func() error {
		p, err := newProbes()
		if err != nil {
			return err
		}
		for _, comp := range controlPlane(p) {
			fresh, err := c.ensureComponent(ctx, comp)
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if fresh {
				started = append(started, comp.name)
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if err := c.log.Step("nodes", func() error {
		for _, n := range nodes(c.net) {
			fresh, err := c.ensureNode(ctx, n)
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if fresh {
				started = append(started, n.Name)
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var dns string
	if err := c.log.Step("images of the cluster's own pods", func() (err error) {
		dns, err = c.ownImages(ctx)
		return err
	}); err != nil {
		return nil, err
	}
	if err := c.log.Step("nodes ready", func() error { return c.awaitNodes(ctx) }); err != nil {
		return nil, err
	}
	return started, c.log.Step("cluster DNS", func() error { return c.ensureDNS(ctx, dns) })
}

// configure writes all files and sets up the host's network. Nothing that is right already is changed.
func (c *Cluster) configure(ctx context.Context) error {
	if err := c.net.checkFree(ctx); err != nil {
		return err
	}
	for _, dir := range []string{"logs", "run", "config", "etcd", "images"} {
		if err := os.MkdirAll(filepath.Join(Dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(Dir, "etcd"), 0o700); err != nil {
		return err
	}
	boot, err := process.BootID()
	if err != nil {
		return err
	}
	resolvers := hostResolvers()
	for _, step := range []func() error{
		func() error { return writeFile(confFile("boot"), []byte(boot), 0o644) },
		c.net.save,
		saveKernelSettings,
		func() error { return setKernelSetting("net/ipv4/ip_forward", "1") },
		func() error { return ensurePKI(c.net, time.Now()) },
		func() error { return renderKubeconfigs(c.net) },
		func() error { return renderResolvConf(resolvers) },
		func() error { return hostNetwork(ctx, c.net) },
		func() error { return cgroup.Create(hostCgroup, false) },
		ensureMountPoints,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, n := range nodes(c.net) {
		if err := renderNode(c.net, n, pauseImage); err != nil {
			return err
		}
	}
	return nil
}
