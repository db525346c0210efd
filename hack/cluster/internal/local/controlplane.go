//go:build linux

package local

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/process"
)

// component is a process of the control plane.
type component struct {
	name    string
	args    func(n Net) []string
	listens func(n Net) []string // host:port
	answers func(n Net) bool
	limit   time.Duration
}

// ready says whether the component answers, and not somebody else at its address.
func (c component) ready(n Net) bool {
	held, err := heldBy(hostCgroup, c.listens(n)...)
	return err == nil && held && c.answers(n)
}

// controlPlane lists the components in the order in which they start.
func controlPlane(p probes) []component {
	local := func(url string) func(Net) bool {
		return func(Net) bool { return answers(p.local, url) }
	}
	at := func(all ...int) func(Net) []string {
		return func(Net) (addresses []string) {
			for _, port := range all {
				addresses = append(addresses, loopback(port))
			}
			return addresses
		}
	}
	return []component{
		{"etcd", etcdArgs, at(etcdPort, etcdPeers), local(fmt.Sprintf("http://127.0.0.1:%d/health", etcdPort)), time.Minute},
		{"kube-apiserver", apiServerArgs, func(n Net) []string { return []string{n.onHost(apiPort)} },
			func(n Net) bool { return answers(p.admin, n.apiURL()+"/readyz") }, 2 * time.Minute},
		{"kube-controller-manager", controllerManagerArgs, at(10257), local("https://127.0.0.1:10257/healthz"), time.Minute},
		{"kube-scheduler", schedulerArgs, at(10259), local("https://127.0.0.1:10259/healthz"), time.Minute},
	}
}

func etcdArgs(Net) []string {
	clients, peers := fmt.Sprintf("http://127.0.0.1:%d", etcdPort), fmt.Sprintf("http://127.0.0.1:%d", etcdPeers)
	return []string{
		"--name=sluice", "--data-dir=" + filepath.Join(Dir, "etcd"),
		"--listen-client-urls=" + clients, "--advertise-client-urls=" + clients,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=sluice=" + peers,
		"--unsafe-no-fsync", // the cluster is made again after a crash of the machine
	}
}

func apiServerArgs(n Net) []string {
	return []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", etcdPort),
		"--bind-address=" + n.host(), "--advertise-address=" + n.host(), fmt.Sprintf("--secure-port=%d", apiPort),
		"--cert-dir=" + filepath.Join(Dir, "pki"),
		"--tls-cert-file=" + pkiFile("apiserver.crt"), "--tls-private-key-file=" + pkiFile("apiserver.key"),
		"--client-ca-file=" + pkiFile("ca.crt"),
		"--kubelet-certificate-authority=" + pkiFile("ca.crt"),
		"--kubelet-client-certificate=" + pkiFile("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + pkiFile("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP", // node names do not resolve
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + pkiFile("sa.pub"), "--service-account-signing-key-file=" + pkiFile("sa.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range=" + n.servicesCIDR(),
		"--allow-privileged=true",
	}
}

func controllerManagerArgs(n Net) []string {
	config := confFile("controller-manager.kubeconfig")
	return []string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1", "--cert-dir=" + filepath.Join(Dir, "pki"), "--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + pkiFile("sa.key"), "--root-ca-file=" + pkiFile("ca.crt"),
		"--cluster-signing-cert-file=" + pkiFile("ca.crt"), "--cluster-signing-key-file=" + pkiFile("ca.key"),
	}
}

func schedulerArgs(Net) []string {
	config := confFile("scheduler.kubeconfig")
	return []string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1", "--cert-dir=" + filepath.Join(Dir, "pki"), "--leader-elect=false",
	}
}

// probes ask components whether they are well.
type probes struct {
	admin *http.Client // of the API server, as the administrator
	local *http.Client // of what listens on the loopback with a certificate that it signed itself
}

func newProbes() (probes, error) {
	pair, err := tls.LoadX509KeyPair(pkiFile("admin.crt"), pkiFile("admin.key"))
	if err != nil {
		return probes{}, err
	}
	ca, err := os.ReadFile(pkiFile("ca.crt"))
	if err != nil {
		return probes{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return probes{
		admin: newClient(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}),
		local: newClient(&tls.Config{InsecureSkipVerify: true}),
	}, nil
}

func newClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 2 * time.Second}
}

func answers(client *http.Client, url string) bool {
	response, err := client.Get(url)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// ensureComponent starts c unless it runs and is ready. It says whether it had to.
func (c *Cluster) ensureComponent(ctx context.Context, comp component) (bool, error) {
	current, err := process.ReadFile(pidFile(comp.name))
	if err != nil {
		return false, err
	}
	if current.Alive() {
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if comp.ready(c.net) {
				return false, nil
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				break
			}
		}
		c.log.Say("  %s runs but does not answer; starting it again", comp.name)
		if err := current.Stop(unix.SIGTERM, 5*time.Second); err != nil {
			return false, err
		}
	}
	if err := portsFree(comp.listens(c.net)...); err != nil {
		return false, err
	}
	program, err := c.store.Ensure(ctx, comp.name)
	if err != nil {
		return false, err
	}
	running, err := process.Start(process.Spec{
		Name: comp.name, Args: append([]string{program}, comp.args(c.net)...), Env: daemonEnv(),
		PIDFile: pidFile(comp.name), Log: logFile(comp.name), Cgroup: hostCgroup,
	}, c.lock)
	if err != nil {
		return false, err
	}
	err = running.Await("that it is ready", comp.limit, func() bool { return ctx.Err() != nil || comp.ready(c.net) })
	if err != nil {
		_, taken := heldBy(hostCgroup, comp.listens(c.net)...)
		return true, errors.Join(err, taken)
	}
	return true, nil
}

// StopAPIServer ends the API server, gently or not.
func (c *Cluster) StopAPIServer() error {
	return stopProcess("kube-apiserver", unix.SIGKILL)
}

// StartAPIServer starts it again and waits until it answers.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	p, err := newProbes()
	if err != nil {
		return err
	}
	for _, comp := range controlPlane(p) {
		if comp.name == "kube-apiserver" {
			_, err := c.ensureComponent(ctx, comp)
			return errors.Join(err, ctx.Err())
		}
	}
	return nil
}

// stopProcess ends the process called name, if it runs.
func stopProcess(name string, sig unix.Signal) error {
	id, err := process.ReadFile(pidFile(name))
	if err != nil {
		return err
	}
	if err := id.Stop(sig, 10*time.Second); err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	return nil
}

func daemonEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
}
