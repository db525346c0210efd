//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// requirement is a file that has to be on the machine, and the Debian package that brings it.
type requirement struct{ file, pkg string }

var clusterRequirements = []requirement{
	{"/usr/bin/containerd", "containerd"},
	{"/usr/sbin/runc", "runc"},
	{"/usr/lib/cni/ptp", "containernetworking-plugins"},
	{"/usr/sbin/nft", "nftables"},
	{"/usr/sbin/ip", "iproute2"},
}

// missingPackages returns the packages that have to be installed, in the order of rs.
func missingPackages(rs []requirement, exists func(string) bool) []string {
	var missing []string
	for _, r := range rs {
		if !exists(r.file) {
			missing = append(missing, r.pkg)
		}
	}
	return missing
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// install installs packages and never removes one: where that would be necessary, apt-get refuses. The package lists
// are fetched only when what they say now does not do.
func install(ctx context.Context, out io.Writer, packages []string) error {
	if interrupted, err := filepath.Glob("/var/lib/dpkg/updates/[0-9]*"); err == nil && len(interrupted) > 0 {
		if err := apt(ctx, out, "dpkg", "--configure", "-a"); err != nil {
			return err
		}
	}
	args := append([]string{"install", "--yes", "--no-remove", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"}, packages...)
	first := apt(ctx, io.Discard, "apt-get", args...)
	if first == nil || ctx.Err() != nil {
		return first
	}
	if err := apt(ctx, out, "apt-get", "update"); err != nil {
		return errors.Join(first, err)
	}
	return apt(ctx, out, "apt-get", args...)
}

// apt runs in a process group of its own: an interrupt at the terminal ends this program, but a package must not be
// left half installed.
func apt(ctx context.Context, out io.Writer, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %v: %w", name, args, err)
	}
	return ctx.Err()
}
