package ports

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// socket is a listening TCP socket of this network namespace.
type socket struct {
	address netip.AddrPort
	uid     int
	inode   string
}

// Holders returns the processes that get the connections to an address, an IP address and a port:
// those that listen on just this address, else those that listen on all addresses. Of an
// unspecified address, they are all that listen on its port.
func Holders(address string) ([]Process, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", address, err)
	}
	wanted := resolved.AddrPort()
	all, err := listening()
	if err != nil {
		return nil, err
	}
	var processes []Process
	for _, s := range serving(all, netip.AddrPortFrom(wanted.Addr().Unmap(), wanted.Port())) {
		found, err := owners(s)
		if err != nil {
			return nil, err
		}
		processes = append(processes, found...)
	}
	slices.SortFunc(processes, func(a, b Process) int { return a.PID - b.PID })
	return slices.Compact(processes), nil
}

// serving returns the sockets that answer at the address.
func serving(all []socket, wanted netip.AddrPort) []socket {
	var exact, wildcard []socket
	for _, s := range all {
		switch {
		case s.address.Port() != wanted.Port():
		case s.address.Addr() == wanted.Addr() || !wanted.Addr().IsValid() || wanted.Addr().IsUnspecified():
			exact = append(exact, s)
		case s.address.Addr().IsUnspecified():
			wildcard = append(wildcard, s)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	return wildcard
}

func listening() ([]socket, error) {
	var all []socket
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			s, listens, err := parseSocket(line)
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w", file, err)
			}
			if listens {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// listenState is TCP_LISTEN of the kernel.
const listenState = "0A"

// parseSocket reads a line of /proc/net/tcp or tcp6 (proc_net(5)); it says false for the heading
// and for sockets that do not listen.
func parseSocket(line string) (socket, bool, error) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listenState {
		return socket{}, false, nil
	}
	host, port, _ := strings.Cut(fields[1], ":")
	number, errPort := strconv.ParseUint(port, 16, 16)
	uid, errUID := strconv.Atoi(fields[7])
	ip, errIP := parseIP(host)
	if err := errors.Join(errPort, errUID, errIP); err != nil {
		return socket{}, false, fmt.Errorf("%q: %w", line, err)
	}
	return socket{address: netip.AddrPortFrom(ip, uint16(number)), uid: uid, inode: fields[9]}, true, nil
}

// parseIP reads an address as the kernel prints it: in words of four bytes, each in the order of
// the machine, which is little-endian on all that Sluice is built for.
func parseIP(text string) (netip.Addr, error) {
	var b []byte
	for word := range slices.Chunk([]byte(text), 8) {
		n, err := strconv.ParseUint(string(word), 16, 32)
		if err != nil {
			return netip.Addr{}, err
		}
		b = append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%q is no IP address", text)
	}
	return ip.Unmap(), nil
}

// owners returns the processes that have the socket open; one without a number if none is visible.
func owners(s socket) ([]Process, error) {
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, file := range descriptors {
		target, err := os.Readlink(file)
		if err != nil || target != "socket:["+s.inode+"]" { // the error: closed, or ended, since
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			return nil, err
		}
		found = append(found, Process{PID: pid, Command: command(pid), UID: s.uid})
	}
	if len(found) == 0 {
		found = append(found, Process{UID: s.uid})
	}
	return found, nil
}

// commandLength bounds what is shown of a command.
const commandLength = 200

// command is how the process was started, in one line, or its name if that is not known.
func command(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	text := []rune(strings.Join(strings.Fields(strings.ReplaceAll(string(line), "\x00", " ")), " "))
	switch {
	case err != nil || len(text) == 0: // it has ended, or is a thread of the kernel
	case len(text) > commandLength:
		return string(text[:commandLength]) + "…"
	default:
		return string(text)
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "ended since"
	}
	return strings.TrimSpace(string(name))
}
