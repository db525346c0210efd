//go:build linux

package local

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(templateFiles, "templates/*"))

func render(name string, data any) ([]byte, error) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("rendering %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// renderKubeconfigs writes one file for each program that speaks to the API server, and the administrator's.
func renderKubeconfigs(n Net) error {
	files := map[string]string{"admin": Kubeconfig()}
	for _, name := range []string{"controller-manager", "scheduler", "kube-proxy"} {
		files[name] = confFile(name + ".kubeconfig")
	}
	for _, node := range nodes(n) {
		files["kubelet-"+node.Name] = confFile("kubelet-" + node.Name + ".kubeconfig")
	}
	for user, path := range files {
		data := map[string]string{"Server": n.apiURL(), "User": user}
		for key, file := range map[string]string{"CA": "ca.crt", "Certificate": user + ".crt", "Key": user + ".key"} {
			content, err := os.ReadFile(pkiFile(file))
			if err != nil {
				return err
			}
			data[key] = base64.StdEncoding.EncodeToString(content)
		}
		content, err := render("kubeconfig.yaml", data)
		if err != nil {
			return err
		}
		if err := writeFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// renderNode writes the configuration of a node's daemons.
func renderNode(n Net, node Node, pause string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	data := map[string]any{
		"Node": node, "Port": kubeletPort, "PKI": filepath.Join(Dir, "pki"), "Socket": socket, "DNS": n.dnsService(),
		"ResolvConf": confFile("resolv.conf"), "Cgroup": node.cgroup(), "Pause": pause, "CNI": filepath.Join(node.dir(), "cni-config"),
		"Disk": onDisk(string(mounts)),
	}
	for name, path := range map[string]string{
		"kubelet.yaml":    filepath.Join(node.dir(), "kubelet.yaml"),
		"containerd.toml": filepath.Join(node.dir(), "containerd.toml"),
		"cni.conflist":    filepath.Join(node.dir(), "cni-config", "10-sluice.conflist"),
	} {
		content, err := render(name, data)
		if err != nil {
			return err
		}
		if err := writeFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// resolvers returns the name servers that pods can use too: those of the host that are not on its loopback.
func resolvers(resolvConf string) []string {
	var found []string
	for _, line := range strings.Split(resolvConf, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil && !address.IsLoopback() && address.Zone() == "" {
			found = append(found, address.String())
		}
	}
	return found
}

// hostResolvers reads the first of the usual files that names a server pods can reach. systemd-resolved puts itself, on
// the loopback, into the first, and the real ones into the second.
func hostResolvers() []string {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if found := resolvers(string(content)); len(found) > 0 {
			return found
		}
	}
	return nil
}

// renderResolvConf writes what pods with the host's DNS policy get.
func renderResolvConf(servers []string) error {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return writeFile(confFile("resolv.conf"), []byte(b.String()), 0o644)
}

// onDisk says whether the root file system is on a disk of the machine. Where it is not (an overlay, in a container),
// the kubelet cannot measure it and must not try.
func onDisk(mountinfo string) bool {
	for _, line := range strings.Split(mountinfo, "\n") {
		left, right, _ := strings.Cut(line, " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if len(before) > 4 && before[4] == "/" && len(after) > 1 {
			return strings.HasPrefix(after[1], "/dev/")
		}
	}
	return false
}
