//go:build linux

package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// identity is who a certificate speaks for, and where it serves.
type identity struct {
	file   string
	user   string
	groups []string
	hosts  []string
}

func identities(n Net) []identity {
	all := []identity{
		{file: "apiserver", user: "kube-apiserver", hosts: []string{
			"127.0.0.1", "localhost", n.host(), n.apiService(), "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local",
		}},
		{file: "apiserver-kubelet-client", user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "admin", user: "admin", groups: []string{"system:masters"}},
		{file: "controller-manager", user: "system:kube-controller-manager"},
		{file: "scheduler", user: "system:kube-scheduler"},
		{file: "kube-proxy", user: "system:kube-proxy"},
	}
	for _, node := range nodes(n) {
		all = append(all,
			identity{file: "kubelet-" + node.Name, user: "system:node:" + node.Name, groups: []string{"system:nodes"}},
			identity{file: "kubelet-serving-" + node.Name, user: node.Name, hosts: []string{node.Name, node.Address}})
	}
	return all
}

// ensurePKI makes all keys and certificates, and does so at once: the folder is renamed into place, so there is never
// a part of them.
func ensurePKI(n Net, now time.Time) error {
	dir := filepath.Join(Dir, "pki")
	if fileExists(dir) {
		return nil
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(now)
	if err != nil {
		return fmt.Errorf("making the certificate authority: %w", err)
	}
	if err := writePair(filepath.Join(part, "ca"), ca.certificate.Raw, ca.key); err != nil {
		return err
	}
	for _, id := range identities(n) {
		certificate, key, err := ca.issue(id, now)
		if err != nil {
			return fmt.Errorf("making the certificate of %s: %w", id.user, err)
		}
		if err := writePair(filepath.Join(part, id.file), certificate, key); err != nil {
			return err
		}
	}
	if err := writeServiceAccountKey(part); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

const validity = 5 * 365 * 24 * time.Hour

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sluice-cluster"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate: certificate, key: key}, err
}

func (a *authority) issue(id identity, now time.Time) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id.user, Organization: id.groups},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, host := range id.hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	return der, key, err
}

// writeServiceAccountKey makes the pair by which tokens of service accounts are signed and checked.
func writeServiceAccountKey(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(dir, "sa.key"), key); err != nil {
		return err
	}
	return writePublicKey(filepath.Join(dir, "sa.pub"), key.Public())
}

func writePair(base string, certificate []byte, key *ecdsa.PrivateKey) error {
	if err := writePEM(base+".crt", "CERTIFICATE", certificate, 0o644); err != nil {
		return err
	}
	return writeKey(base+".key", key)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der, 0o600)
}

func writePublicKey(path string, key crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PUBLIC KEY", der, 0o644)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
