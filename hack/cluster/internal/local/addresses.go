//go:build linux

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
)

// Net is the address space of a cluster: two /16 networks, each by its first two bytes ("10.244").
type Net struct {
	Cluster  string // nodes in .0, pods of node N in .N
	Services string
}

var twoBytes = regexp.MustCompile(`^\d{1,3}\.\d{1,3}$`)

// netFrom reads the address space from the environment.
func netFrom(getenv func(string) string) (Net, error) {
	n := Net{Cluster: "10.244", Services: "10.96"}
	for name, field := range map[string]*string{"CLUSTER_NET": &n.Cluster, "SERVICE_NET": &n.Services} {
		value := getenv(name)
		if value == "" {
			continue
		}
		if _, err := netip.ParseAddr(value + ".0.0"); err != nil || !twoBytes.MatchString(value) {
			return Net{}, fmt.Errorf("%s is %q; it has to be the first two bytes of a /16 network, such as 10.244", name, value)
		}
		*field = value
	}
	if n.Cluster == n.Services {
		return Net{}, fmt.Errorf("CLUSTER_NET and SERVICE_NET are both %s; they have to differ", n.Cluster)
	}
	return n, nil
}

func (n Net) clusterCIDR() string  { return n.Cluster + ".0.0/16" }
func (n Net) servicesCIDR() string { return n.Services + ".0.0/16" }
func (n Net) host() string         { return n.Cluster + ".0.1" }
func (n Net) apiService() string   { return n.Services + ".0.1" }
func (n Net) dnsService() string   { return n.Services + ".0.10" }
func (n Net) apiURL() string       { return fmt.Sprintf("https://%s:%d", n.host(), apiPort) }

// loadNet returns the address space of the cluster that exists, else that of the environment.
func loadNet() (Net, error) {
	content, err := os.ReadFile(confFile("net.json"))
	if errors.Is(err, os.ErrNotExist) {
		return netFrom(os.Getenv)
	}
	if err != nil {
		return Net{}, err
	}
	var n Net
	if err := json.Unmarshal(content, &n); err != nil {
		return Net{}, fmt.Errorf("reading the addresses of the cluster: %w", err)
	}
	return n, nil
}

func (n Net) save() error {
	content, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return writeFile(confFile("net.json"), content, 0o644)
}

// checkFree refuses networks to which this machine has routes of somebody else's. Once the bridge is there, they are
// ours, and pods have added theirs.
func (n Net) checkFree(ctx context.Context) error {
	if linkExists(bridge) {
		return nil
	}
	out, err := output(ctx, "ip", "-json", "-4", "route", "show")
	if err != nil {
		return err
	}
	return n.checkRoutes(out)
}

func (n Net) checkRoutes(routes []byte) error {
	var all []struct{ Dst, Dev string }
	if err := json.Unmarshal(routes, &all); err != nil {
		return fmt.Errorf("reading the routes: %w", err)
	}
	for _, wanted := range []struct{ cidr, variable string }{
		{n.clusterCIDR(), "CLUSTER_NET"}, {n.servicesCIDR(), "SERVICE_NET"},
	} {
		ours := netip.MustParsePrefix(wanted.cidr)
		for _, r := range all {
			theirs, err := netip.ParsePrefix(r.Dst)
			if err != nil { // "default", or an address without a length
				addr, err := netip.ParseAddr(r.Dst)
				if err != nil {
					continue
				}
				theirs = netip.PrefixFrom(addr, addr.BitLen())
			}
			if theirs.Bits() > 0 && ours.Overlaps(theirs) {
				return fmt.Errorf("this machine already routes %s to %s, which the cluster would use: set %s to two other bytes, such as 10.200",
					r.Dst, r.Dev, wanted.variable)
			}
		}
	}
	return nil
}
