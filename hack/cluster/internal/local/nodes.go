//go:build linux

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
	"github.com/sluice-project/sluice/hack/cluster/internal/node"
	"github.com/sluice-project/sluice/hack/cluster/internal/process"
)

// mountPoints are the places that programs of a node have built in. Every node mounts folders of its own there. Those
// that the machine does not have are made, and removed again by Down; in the order from parent to child.
var mountPoints = []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers"}

// ensureMountPoints makes the folders and notes, beforehand, which it is about to make.
func ensureMountPoints() error {
	note := confFile("made-folders")
	if !fileExists(note) {
		var missing []string
		for _, path := range mountPoints {
			if !fileExists(path) {
				missing = append(missing, path)
			}
		}
		if err := writeFile(note, []byte(strings.Join(missing, "\n")), 0o644); err != nil {
			return err
		}
	}
	for _, path := range mountPoints {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// removeMountPoints removes the folders that ensureMountPoints made. They are empty: only nodes saw them filled.
func removeMountPoints() error {
	made, err := os.ReadFile(confFile("made-folders"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(made)) {
		if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("removing %s: %w", path, err)
		}
	}
	return nil
}

// config says what the node consists of.
func (c *Cluster) nodeConfig(ctx context.Context, n Node) (node.Config, error) {
	config := node.Config{Hostname: n.Name, Address: n.Address, Mounts: []node.Mount{{Target: "/run"}}}
	for _, target := range mountPoints {
		source := filepath.Join(n.dir(), filepath.Base(target))
		if err := os.MkdirAll(source, 0o755); err != nil {
			return node.Config{}, err
		}
		config.Mounts = append(config.Mounts, node.Mount{Source: source, Target: target})
	}
	kubelet, err := c.store.Ensure(ctx, "kubelet")
	if err != nil {
		return node.Config{}, err
	}
	proxy, err := c.store.Ensure(ctx, "kube-proxy")
	if err != nil {
		return node.Config{}, err
	}
	daemon := func(name, after string, args ...string) {
		config.Daemons = append(config.Daemons, node.Daemon{
			Name: name, Args: args, Env: daemonEnv(), Log: n.log(name), After: after,
		})
	}
	daemon("containerd", "", "/usr/bin/containerd", "--config", filepath.Join(n.dir(), "containerd.toml"))
	daemon("kubelet", socket, kubelet,
		"--config="+filepath.Join(n.dir(), "kubelet.yaml"),
		"--kubeconfig="+confFile("kubelet-"+n.Name+".kubeconfig"),
		"--hostname-override="+n.Name, "--node-ip="+n.Address)
	daemon("kube-proxy", "", proxy,
		"--kubeconfig="+confFile("kube-proxy.kubeconfig"), "--hostname-override="+n.Name, "--bind-address="+n.Address,
		"--proxy-mode=nftables", "--cluster-cidr="+c.net.clusterCIDR(),
		"--metrics-bind-address=127.0.0.1:10249", "--healthz-bind-address=127.0.0.1:10256",
		// The machine's connection tracking stays as its owner set it.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s")
	return config, nil
}

// ensureNode starts the node unless it runs, and says whether it had to.
func (c *Cluster) ensureNode(ctx context.Context, n Node) (bool, error) {
	first, err := process.ReadFile(pidFile(n.process()))
	if err != nil {
		return false, err
	}
	started := !first.Alive()
	if started {
		if first, err = c.startNode(ctx, n); err != nil {
			return true, err
		}
	}
	if err := nodeNetwork(ctx, c.net, n, first.PID); err != nil {
		return started, err
	}
	deadline := time.Now().Add(30 * time.Second)
	for !socketAnswers(nodeSocket(first.PID)) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return started, fmt.Errorf("containerd of %s does not answer; the end of %s:\n%s",
				n.Name, n.log("containerd"), process.Tail(n.log("containerd"), 15))
		}
		time.Sleep(50 * time.Millisecond)
	}
	return started, nil
}

func (c *Cluster) startNode(ctx context.Context, n Node) (process.Identity, error) {
	if err := portsFree(n.listens()...); err != nil {
		return process.Identity{}, err
	}
	if err := cgroup.Create(n.cgroup()+"/system", false); err != nil {
		return process.Identity{}, err
	}
	if err := cgroup.Create(n.cgroup(), true); err != nil {
		return process.Identity{}, err
	}
	config, err := c.nodeConfig(ctx, n)
	if err != nil {
		return process.Identity{}, err
	}
	content, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return process.Identity{}, err
	}
	path := filepath.Join(n.dir(), "node.json")
	if err := writeFile(path, content, 0o644); err != nil {
		return process.Identity{}, err
	}
	namespaces := uintptr(syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC)
	if n.Own {
		namespaces |= syscall.CLONE_NEWNET
	}
	running, err := process.Start(process.Spec{
		Name: n.process(), Inside: node.Command, Args: []string{path}, Namespaces: namespaces,
		PIDFile: pidFile(n.process()), Log: n.log("node"), Cgroup: n.cgroup() + "/system",
	}, c.lock)
	if err != nil {
		return process.Identity{}, err
	}
	return running.Identity, nil
}

// nodeSocket is where the host finds the containerd of the node whose first process is pid.
func nodeSocket(pid int) string {
	return filepath.Join("/proc", strconv.Itoa(pid), "root", socket)
}

func socketAnswers(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// awaitNodes waits until the API server says that all nodes are ready.
func (c *Cluster) awaitNodes(ctx context.Context) error {
	for _, n := range nodes(c.net) {
		deadline := time.Now().Add(time.Minute)
		for {
			_, err := c.kubectl(ctx, nil, "get", "node", n.Name, "-o", "name")
			if err == nil {
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				return fmt.Errorf("%s does not register: %w; the end of %s:\n%s", n.Name, err, n.log("kubelet"), process.Tail(n.log("kubelet"), 15))
			}
			time.Sleep(200 * time.Millisecond)
		}
		if _, err := c.kubectl(ctx, nil, "wait", "--for=condition=Ready", "node/"+n.Name, "--timeout=120s"); err != nil {
			return fmt.Errorf("%s does not become ready: %w; the end of %s:\n%s", n.Name, err, n.log("kubelet"), process.Tail(n.log("kubelet"), 15))
		}
	}
	return nil
}

// Cut takes the node off the network without a word to anybody: no connection is closed.
func (c *Cluster) Cut(ctx context.Context, name string) error { return c.plug(ctx, name, "down") }

// Heal puts the node back.
func (c *Cluster) Heal(ctx context.Context, name string) error { return c.plug(ctx, name, "up") }

func (c *Cluster) plug(ctx context.Context, name, state string) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if !n.Own {
		return fmt.Errorf("%s is on the host's network, with the control plane, and cannot be cut off: use sluice-2", n.Name)
	}
	return run(ctx, "ip", "link", "set", n.veth(), state)
}

// Enter returns the command line that runs a command inside the node.
func (c *Cluster) Enter(name string, command []string) ([]string, error) {
	n, err := c.node(name)
	if err != nil {
		return nil, err
	}
	first, err := process.ReadFile(pidFile(n.process()))
	if err != nil {
		return nil, err
	}
	if !first.Alive() {
		return nil, fmt.Errorf("%s does not run: `make cluster` starts it", n.Name)
	}
	if len(command) == 0 {
		command = []string{"/bin/bash"}
	}
	enter := []string{"/usr/bin/nsenter", "--target", strconv.Itoa(first.PID), "--mount", "--pid", "--uts", "--ipc", "--net", "--"}
	return append(enter, command...), nil
}
