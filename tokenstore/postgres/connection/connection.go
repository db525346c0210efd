// Package connection turns what a spec says of a database, and the Secrets that it names, into the
// way there. The database is the store's, or the one of a source that is not in the store's.
//
// What always holds: nothing but the spec and those Secrets has a say. TLS material comes from
// Secrets' bytes, never from files that a URL names, and no error holds a password. Operator and
// worker share this, so that both reach the same server.
package connection

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// Secrets reads one key of a Secret. Where it is not there, the error is a *SecretNotFoundError.
type Secrets func(ctx context.Context, name, key string) ([]byte, error)

// SecretNotFoundError says that a Secret, or a key in it, does not exist (yet).
type SecretNotFoundError struct {
	Name string
	Key  string
	// KeyOnly says that the Secret is there, without the key.
	KeyOnly bool
	// Field of the spec that names the Secret. [Target] sets it.
	Field string
}

func (e *SecretNotFoundError) Error() string {
	if e.KeyOnly {
		return fmt.Sprintf("Secret %s has no key %s: add it, or name another key in %s", e.Name, e.Key, cmp.Or(e.Field, "the spec"))
	}
	return fmt.Sprintf("Secret %s does not exist: create it with the key %s", e.Name, e.Key)
}

// InvalidError says that a Secret's content is not what the spec uses it for.
type InvalidError struct {
	Name, Key string
	Cause     error
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("Secret %s, key %s: %s", e.Name, e.Key, e.Cause)
}

func (e *InvalidError) Unwrap() error { return e.Cause }

// Target returns the way to a database as the Secrets have it now. Errors name what the database is
// used for, and the field of the spec.
func Target(ctx context.Context, use definition.DatabaseUse, database definition.Database, secrets Secrets) (postgres.Target, error) {
	secrets = secrets.of(use)
	target, mode, err := place(ctx, use, database, secrets)
	if err != nil {
		return postgres.Target{}, err
	}
	settings := definition.TLS{}
	switch {
	case database.TLS != nil:
		settings = *database.TLS
		mode = modes[settings.Mode]
	case strings.HasPrefix(target.Host, "/"): // a socket, which sslmode is not about
		mode = "disable"
	}
	if err := encrypt(ctx, &target, mode, settings, secrets); err != nil {
		return postgres.Target{}, err
	}
	return target, nil
}

// of says in errors which field of the spec names the Secrets.
func (s Secrets) of(use definition.DatabaseUse) Secrets {
	return func(ctx context.Context, name, key string) ([]byte, error) {
		value, err := s(ctx, name, key)
		if missing, is := errors.AsType[*SecretNotFoundError](err); is {
			named := *missing
			named.Field = use.Field()
			return nil, &named
		}
		return value, err
	}
}

// modes are libpq's names of the spec's modes.
var modes = map[string]string{
	"":                       "verify-full", // the default, where a spec has not got its defaults
	definition.TLSDisable:    "disable",
	definition.TLSRequire:    "require",
	definition.TLSVerifyCA:   "verify-ca",
	definition.TLSVerifyFull: "verify-full",
}

// place returns where the database is, as whom to connect, and the sslmode where the URL has one.
func place(ctx context.Context, use definition.DatabaseUse, database definition.Database, secrets Secrets) (postgres.Target, string, error) {
	switch {
	case database.URLSecretRef != nil:
		return byURL(ctx, use, *database.URLSecretRef, secrets)
	case database.Connection != nil:
		target, err := byParts(ctx, *database.Connection, secrets)
		return target, "prefer", err
	}
	return postgres.Target{}, "", fmt.Errorf("%s has neither urlSecretRef nor connection: set one", use.Field())
}

func byURL(ctx context.Context, use definition.DatabaseUse, ref definition.SecretKey, secrets Secrets) (postgres.Target, string, error) {
	if ref.Key == "" {
		ref.Key = "uri"
	}
	text, err := secrets(ctx, ref.Name, ref.Key)
	if err != nil {
		return postgres.Target{}, "", err
	}
	url, err := definition.ParseURL(use, strings.TrimSpace(string(text)))
	if err != nil {
		return postgres.Target{}, "", &InvalidError{ref.Name, ref.Key, err}
	}
	return postgres.Target{Host: url.Host, Port: url.Port, Database: url.Database, User: url.User, Password: url.Password,
		ConnectTimeout: url.ConnectTimeout, Attributes: url.TargetSessionAttrs, ChannelBinding: url.ChannelBinding}, url.SSLMode, nil
}

func byParts(ctx context.Context, c definition.Connection, secrets Secrets) (postgres.Target, error) {
	target := postgres.Target{Host: c.Host, Port: uint16(c.Port), Database: c.Database}
	if c.Port == 0 {
		target.Port = 5432
	}
	user, err := secrets(ctx, c.UsernameSecretRef.Name, c.UsernameSecretRef.Key)
	if err != nil {
		return target, err
	}
	target.User = strings.TrimSpace(string(user))
	if target.User == "" {
		return target, &InvalidError{c.UsernameSecretRef.Name, c.UsernameSecretRef.Key, errors.New("the user's name is empty")}
	}
	if ref := c.PasswordSecretRef; ref != nil {
		password, err := secrets(ctx, ref.Name, ref.Key)
		if err != nil {
			return target, err
		}
		target.Password = strings.TrimRight(string(password), "\r\n") // as editors and echo leave them
	}
	return target, nil
}

// encrypt sets how the connection is encrypted. allow is treated as prefer, which asks for more.
func encrypt(ctx context.Context, target *postgres.Target, mode string, settings definition.TLS, secrets Secrets) error {
	switch mode {
	case "disable":
		return nil
	case "prefer", "allow":
		target.PreferTLS = true
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: target.Host}
	var err error
	if config.RootCAs, err = authorities(ctx, settings.CASecretRef, secrets); err != nil {
		return err
	}
	if config.Certificates, err = certificates(ctx, settings.CertificateSecretRef, secrets); err != nil {
		return err
	}
	switch {
	case mode == "require" && config.RootCAs == nil:
		config.InsecureSkipVerify = true
	// If authorities are named, require checks them, as libpq does.
	case mode == "require", mode == "verify-ca":
		config.InsecureSkipVerify = true // replaced by a check of all but the name
		config.VerifyConnection = chainOnly(config.RootCAs)
	}
	target.TLS = config
	return nil
}

func authorities(ctx context.Context, ref *definition.SecretKey, secrets Secrets) (*x509.CertPool, error) {
	if ref == nil {
		return nil, nil // those of the image
	}
	pem, err := secrets(ctx, ref.Name, ref.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, &InvalidError{ref.Name, ref.Key, errors.New("it holds no certificate in PEM: put the authorities' there")}
	}
	return pool, nil
}

func certificates(ctx context.Context, ref *definition.Secret, secrets Secrets) ([]tls.Certificate, error) {
	if ref == nil {
		return nil, nil
	}
	certificate, err := secrets(ctx, ref.Name, "tls.crt")
	if err != nil {
		return nil, err
	}
	key, err := secrets(ctx, ref.Name, "tls.key")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, &InvalidError{ref.Name, "tls.crt", fmt.Errorf("certificate and key do not make a pair: %w", err)}
	}
	return []tls.Certificate{pair}, nil
}

// chainOnly verifies a server's certificate, but not its name.
func chainOnly(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, certificate := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(certificate)
		}
		_, err := state.PeerCertificates[0].Verify(options)
		return err
	}
}
