//go:build linux

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// hostNetwork makes the bridge on which the nodes meet, the route to Services and the address translation for what pods
// send outside. All of it may be there already.
func hostNetwork(ctx context.Context, n Net) error {
	if !linkExists(bridge) {
		if err := run(ctx, "ip", "link", "add", bridge, "type", "bridge"); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"address", "replace", n.host() + "/24", "dev", bridge},
		{"link", "set", bridge, "up"},
		// kube-proxy translates these addresses; the route only makes the host speak to them from its bridge address.
		{"route", "replace", n.servicesCIDR(), "dev", bridge, "src", n.host()},
	} {
		if err := run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	for _, node := range nodes(n) {
		if node.Own {
			if err := run(ctx, "ip", "route", "replace", node.Pods, "via", node.Address, "dev", bridge); err != nil {
				return err
			}
		}
	}
	rules, err := render("nat.nft", map[string]string{"Table": natTable, "Cluster": n.clusterCIDR(), "Bridge": bridge})
	if err != nil {
		return err
	}
	_, err = pipe(ctx, rules, "nft", "-f", "-")
	return err
}

// nodeNetwork plugs the node whose first process is pid into the bridge.
func nodeNetwork(ctx context.Context, n Net, node Node, pid int) error {
	if !node.Own {
		return nil
	}
	inside := func(args ...string) error {
		return run(ctx, "nsenter", append([]string{"--target", strconv.Itoa(pid), "--net", "ip"}, args...)...)
	}
	if inside("link", "show", "eth0") != nil {
		if linkExists(node.veth()) {
			if err := run(ctx, "ip", "link", "delete", node.veth()); err != nil {
				return err
			}
		}
		err := run(ctx, "ip", "link", "add", node.veth(), "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid))
		if err != nil {
			return err
		}
	}
	if err := run(ctx, "ip", "link", "set", node.veth(), "master", bridge, "up"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", "eth0", "up"},
		{"address", "replace", node.Address + "/24", "dev", "eth0"},
		{"route", "replace", "default", "via", n.host(), "dev", "eth0"},
	} {
		if err := inside(args...); err != nil {
			return err
		}
	}
	return nil
}

func linkExists(name string) bool { return fileExists("/sys/class/net/" + name) }

// removeNetwork undoes hostNetwork and what kube-proxy left.
func removeNetwork(ctx context.Context, n Net) error {
	var errs []error
	links := []string{bridge}
	for _, node := range nodes(n) {
		links = append(links, node.veth())
	}
	for _, link := range links {
		if linkExists(link) {
			errs = append(errs, run(ctx, "ip", "link", "delete", link))
		}
	}
	if fileExists("/usr/sbin/nft") {
		for _, table := range [][]string{{"ip", natTable}, {"ip", "kube-proxy"}, {"ip6", "kube-proxy"}} {
			if run(ctx, "nft", "list", "table", table[0], table[1]) == nil {
				errs = append(errs, run(ctx, "nft", "delete", "table", table[0], table[1]))
			}
		}
	}
	return errors.Join(errs...)
}

// kernelSettings are those that a cluster changes: forwarding here, the others the kubelet and kube-proxy.
var kernelSettings = []string{
	"net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/netfilter/nf_conntrack_max",
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// saveKernelSettings notes what they were before the first change.
func saveKernelSettings() error {
	path := confFile("kernel-settings.json")
	if fileExists(path) {
		return nil
	}
	saved := map[string]string{}
	for _, name := range kernelSettings {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the kernel setting %s: %w", name, err)
		}
		saved[name] = strings.TrimSpace(string(value))
	}
	content, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, content, 0o644)
}

func setKernelSetting(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	current, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the kernel setting %s: %w", name, err)
	}
	if strings.TrimSpace(string(current)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("setting the kernel setting %s: %w", name, err)
	}
	return nil
}

// restoreKernelSettings puts them back to what they were.
func restoreKernelSettings() error {
	content, err := os.ReadFile(confFile("kernel-settings.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	saved := map[string]string{}
	if err := json.Unmarshal(content, &saved); err != nil {
		return fmt.Errorf("reading the kernel settings of before: %w", err)
	}
	var errs []error
	for name, value := range saved {
		errs = append(errs, setKernelSetting(name, value))
	}
	return errors.Join(errs...)
}
