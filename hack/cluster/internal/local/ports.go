//go:build linux

package local

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
	"github.com/sluice-project/sluice/hack/cluster/internal/process"
	"github.com/sluice-project/sluice/internal/ports"
)

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// onHost is a port at the address by which nodes and pods reach the host.
func (n Net) onHost(port int) string { return net.JoinHostPort(n.host(), strconv.Itoa(port)) }

func postgresAddresses(n Net) []string {
	return []string{loopback(PostgresPort), n.onHost(PostgresPort)}
}

// listens are the addresses of the node's daemons on the host's network.
func (n Node) listens() []string {
	if n.Own {
		return nil
	}
	return []string{
		net.JoinHostPort(n.Address, strconv.Itoa(kubeletPort)),
		loopback(10248), // health of kubelet
		loopback(10249), // metrics of kube-proxy
		loopback(10256), // health of kube-proxy
	}
}

// checkPorts names all that is in the way of what does not run yet, before any of it is started.
func (c *Cluster) checkPorts() error {
	wanted := map[string][]string{}
	for _, comp := range controlPlane(probes{}) {
		wanted[comp.name] = comp.listens(c.net)
	}
	for _, n := range nodes(c.net) {
		wanted[n.process()] = n.listens()
	}
	var addresses []string
	for name, all := range wanted {
		id, err := process.ReadFile(pidFile(name))
		if err != nil {
			return err
		}
		if !id.Alive() {
			addresses = append(addresses, all...)
		}
	}
	slices.Sort(addresses)
	return portsFree(addresses...)
}

// portsFree returns an error that names whoever listens on one of the addresses.
func portsFree(addresses ...string) error {
	if err := ports.CheckFree(addresses...); err != nil {
		return fmt.Errorf("%w\nThe cluster needs these ports: stop what has them. `make cluster-down` ends what an earlier cluster left", err)
	}
	return nil
}

// heldBy says whether processes of the control group listen on all the addresses. If anybody else
// listens on one, which is where its users would be led, it returns an error that names them.
func heldBy(group string, addresses ...string) (bool, error) {
	all := true
	var errs []error
	for _, address := range addresses {
		holders, err := ports.Holders(address)
		if err != nil {
			return false, err
		}
		all = all && len(holders) > 0
		strangers := slices.DeleteFunc(holders, func(p ports.Process) bool { return p.PID != 0 && cgroup.Contains(group, p.PID) })
		if len(strangers) > 0 {
			errs = append(errs, &ports.InUseError{Address: address, Holders: strangers})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return false, fmt.Errorf("%w\nThe cluster needs these ports: stop what has them and run this again", err)
	}
	return all, nil
}
