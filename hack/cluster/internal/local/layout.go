//go:build linux

// Package local runs Kubernetes on this machine: the control plane and node 1 on the host's network, further nodes in
// network namespaces of their own.
//
// Everything that it makes is below Dir, in the control group cgroupRoot, or carries one of the names in this file, and
// so Down finds it without having kept a list.
package local

import (
	"fmt"
	"path/filepath"
)

const (
	// Dir holds all state: keys, data, logs, process identities.
	Dir = "/var/lib/sluice-cluster"

	cgroupRoot  = "/sluice-cluster"
	hostCgroup  = cgroupRoot + "/host" // the control plane and PostgreSQL
	bridge      = "sluice0"            // where the nodes meet
	natTable    = "sluice-cluster"     // of nftables: lets pods reach what is outside
	socket      = "/run/containerd/containerd.sock"
	etcdPort    = 12379
	etcdPeers   = 12380
	apiPort     = 6443
	kubeletPort = 10250

	// PostgresPort is where PostgreSQL listens on the host. Pods use the Service and port 5432.
	PostgresPort = 15432
)

// Kubeconfig is the file with which to administer the cluster.
func Kubeconfig() string { return filepath.Join(Dir, "kubeconfig") }

func logFile(name string) string { return filepath.Join(Dir, "logs", name+".log") }
func pidFile(name string) string { return filepath.Join(Dir, "run", name+".json") }
func pkiFile(name string) string { return filepath.Join(Dir, "pki", name) }
func confFile(name string) string {
	return filepath.Join(Dir, "config", name)
}

// Node is one of the two.
type Node struct {
	Number  int
	Name    string
	Address string // of the node itself
	Pods    string // CIDR
	Own     bool   // has a network namespace of its own
}

// nodes returns the nodes for the addresses in n.
func nodes(n Net) []Node {
	all := make([]Node, 2)
	for i := range all {
		number := i + 1
		all[i] = Node{
			Number:  number,
			Name:    fmt.Sprintf("sluice-%d", number),
			Address: fmt.Sprintf("%s.0.%d", n.Cluster, number),
			Pods:    fmt.Sprintf("%s.%d.0/24", n.Cluster, number),
			Own:     number > 1,
		}
	}
	return all
}

func (n Node) dir() string     { return filepath.Join(Dir, n.Name) }
func (n Node) cgroup() string  { return cgroupRoot + "/" + n.Name }
func (n Node) veth() string    { return fmt.Sprintf("sluice-n%d", n.Number) }
func (n Node) process() string { return "node-" + n.Name }
func (n Node) log(d string) string {
	return logFile(n.Name + "-" + d)
}
