// Package access finds the way to a store: from a URL, or from a processor's spec and its mounted Secrets. Files are read
// again at every connect, so that credentials rotate, and may come late, without a restart.
package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Target finds the way to a database; it is asked at every connect.
type Target = func(ctx context.Context) (postgres.Target, error)

// SecretError says that a Secret, or a key of it, is not there (yet).
type SecretError struct{ Name, Key string }

func (e *SecretError) Error() string {
	return fmt.Sprintf("secret %s has no key %s, or does not exist: create it, or correct spec.store.postgres", e.Name, e.Key)
}

// FromURL returns the way to the database that a URL names.
func FromURL(url string) (Target, error) {
	u, err := definition.ParseStoreURL(url)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (postgres.Target, error) { return fromURL(u, nil) }, nil
}

// FromFiles returns the way to a spec's store, whose Secrets are mounted below a folder: one folder for each, a file for
// each key.
func FromFiles(store definition.Store, secrets string) (Target, error) {
	if store.Postgres == nil || (store.Postgres.URLSecretRef == nil) == (store.Postgres.Connection == nil) {
		return nil, errors.New("the store needs exactly one of postgres.urlSecretRef and postgres.connection")
	}
	files := files{secrets}
	return func(context.Context) (postgres.Target, error) { return files.target(*store.Postgres) }, nil
}

type files struct{ dir string }

func (f files) target(spec definition.Postgres) (postgres.Target, error) {
	if spec.URLSecretRef != nil {
		text, err := f.read(spec.URLSecretRef.Name, or(spec.URLSecretRef.Key, "uri"))
		if err != nil {
			return postgres.Target{}, err
		}
		u, err := definition.ParseStoreURL(strings.TrimSpace(string(text)))
		if err != nil {
			return postgres.Target{}, fmt.Errorf("the URL in secret %s: %w", spec.URLSecretRef.Name, err)
		}
		encryption, err := f.encryption(spec.TLS, u.Host)
		if err != nil {
			return postgres.Target{}, err
		}
		return fromURL(u, encryption)
	}
	c := spec.Connection
	user, err := f.read(c.UsernameSecretRef.Name, or(c.UsernameSecretRef.Key, "username"))
	if err != nil {
		return postgres.Target{}, err
	}
	var password []byte
	if c.PasswordSecretRef != nil {
		if password, err = f.read(c.PasswordSecretRef.Name, or(c.PasswordSecretRef.Key, "password")); err != nil {
			return postgres.Target{}, err
		}
	}
	encryption, err := f.encryption(spec.TLS, c.Host)
	if err != nil {
		return postgres.Target{}, err
	}
	t := postgres.Target{Host: c.Host, Port: uint16(c.Port), Database: c.Database, User: line(user), Password: line(password)}
	if t.Port == 0 {
		t.Port = 5432
	}
	if encryption != nil {
		t.TLS = encryption.config
	}
	return t, nil
}

func (f files) read(name, key string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(f.dir, name, key))
	if errors.Is(err, os.ErrNotExist) {
		return nil, &SecretError{Name: name, Key: key}
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	return data, nil
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func line(data []byte) string { return strings.TrimRight(string(data), "\r\n") }

// encryption is what spec.store.postgres.tls asks for; its config is nil for connections in the clear.
type encryption struct{ config *tls.Config }

func (f files) encryption(spec *definition.TLS, host string) (*encryption, error) {
	if spec == nil || spec.Mode == "" {
		return nil, nil
	}
	var authorities, certificate, key []byte
	var err error
	if spec.CASecretRef != nil {
		if authorities, err = f.read(spec.CASecretRef.Name, or(spec.CASecretRef.Key, "ca.crt")); err != nil {
			return nil, err
		}
	}
	if spec.CertificateSecretRef != nil {
		if certificate, err = f.read(spec.CertificateSecretRef.Name, "tls.crt"); err != nil {
			return nil, err
		}
		if key, err = f.read(spec.CertificateSecretRef.Name, "tls.key"); err != nil {
			return nil, err
		}
	}
	config, err := Encryption(spec.Mode, host, authorities, certificate, key)
	return &encryption{config}, err
}

// Encryption makes a TLS configuration for a mode of spec.store.postgres.tls, from PEM; nil for Disable.
func Encryption(mode, host string, authorities, certificate, key []byte) (*tls.Config, error) {
	if mode == definition.TLSDisable {
		return nil, nil
	}
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if len(authorities) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, errors.New("the authorities (tls.caSecretRef) hold no certificate in PEM")
		}
	}
	if len(certificate) > 0 {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("the client's certificate (tls.certificateSecretRef): %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	switch mode {
	case definition.TLSRequire:
		config.InsecureSkipVerify = true
	case definition.TLSVerifyCA:
		config.InsecureSkipVerify = true // the name may differ; the chain is verified here
		config.VerifyConnection = verifyChain(config.RootCAs)
	}
	return config, nil
}

func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		_, err := state.PeerCertificates[0].Verify(options)
		return err
	}
}

func fromURL(u definition.StoreURL, asked *encryption) (postgres.Target, error) {
	t := postgres.Target{Host: u.Host, Port: u.Port, Database: u.Database, User: u.User, Password: u.Password, ConnectTimeout: u.ConnectTimeout}
	if asked != nil {
		t.TLS = asked.config
		return t, nil
	}
	if u.SSLMode == "" || u.SSLMode == "prefer" || u.SSLMode == "allow" {
		t.PreferTLS = true
		return t, nil
	}
	modes := map[string]string{"disable": definition.TLSDisable, "require": definition.TLSRequire, "verify-ca": definition.TLSVerifyCA, "verify-full": definition.TLSVerifyFull}
	var err error
	t.TLS, err = Encryption(modes[u.SSLMode], u.Host, u.SSLRootCert, nil, nil)
	return t, err
}
