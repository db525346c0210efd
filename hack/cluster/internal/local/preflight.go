//go:build linux

package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-project/sluice/hack/cluster/internal/cgroup"
)

// machine is what has to be known of a machine before anything is done to it.
type machine struct {
	root   bool
	debian bool
	docker bool     // a Docker daemon answers
	others []string // programs that manage containers here and are not ours, as "kubelet (process 17)"
}

// Supported says whether this machine can run a cluster at all, and if not why.
func Supported() error {
	m, err := observe()
	if err != nil {
		return err
	}
	return m.check()
}

func (m machine) check() error {
	switch {
	case !m.root:
		return errors.New("the cluster on this machine needs root (namespaces, control groups, mounts): run it by sudo, or set CONTEXT to the kube context of a cluster you have")
	case !m.debian:
		return errors.New("the cluster on this machine needs Debian or a distribution made from it (packages come by apt-get): set CONTEXT to the kube context of a cluster you have")
	case m.docker:
		return errors.New("a Docker daemon answers on /var/run/docker.sock: Debian's containerd and Docker's exclude each other; use kind (unset CONTEXT), or stop Docker")
	case len(m.others) > 0:
		return fmt.Errorf("%s runs here and was not started by this program: two of them fight over nftables and control groups; stop it, or set CONTEXT to its kube context",
			strings.Join(m.others, ", "))
	}
	return nil
}

// managers are programs that own the containers and the packet filter of a machine.
var managers = []string{"dockerd", "kubelet", "k3s", "k3s-server", "k3s-agent", "rke2", "k0s", "kubelite"}

func observe() (machine, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return machine{}, err
	}
	others, err := foreignManagers()
	if err != nil {
		return machine{}, err
	}
	return machine{
		root: os.Geteuid() == 0, debian: isDebian(string(release)), docker: DockerAnswers(), others: others,
	}, nil
}

// isDebian reads os-release(5).
func isDebian(release string) bool {
	for _, line := range strings.Split(release, "\n") {
		key, value, _ := strings.Cut(line, "=")
		if key == "ID" || key == "ID_LIKE" {
			if slices.Contains(strings.Fields(strings.Trim(value, `"'`)), "debian") {
				return true
			}
		}
	}
	return false
}

// DockerAnswers says whether a Docker daemon listens where it does by default.
func DockerAnswers() bool {
	conn, err := net.DialTimeout("unix", "/var/run/docker.sock", time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func foreignManagers() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile("/proc/" + e.Name() + "/comm")
		if err != nil {
			continue // ended meanwhile
		}
		name := strings.TrimSpace(string(comm))
		if slices.Contains(managers, name) && !cgroup.Contains(cgroupRoot, pid) {
			found = append(found, fmt.Sprintf("%s (process %d)", name, pid))
		}
	}
	return found, nil
}
