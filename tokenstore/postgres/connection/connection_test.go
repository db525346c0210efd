package connection

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// secretsOf answers from a map by "name/key".
func secretsOf(values map[string]string) Secrets {
	return func(_ context.Context, name, key string) ([]byte, error) {
		if value, ok := values[name+"/"+key]; ok {
			return []byte(value), nil
		}
		for other := range values {
			if strings.HasPrefix(other, name+"/") {
				return nil, &SecretNotFoundError{Name: name, Key: key, KeyOnly: true}
			}
		}
		return nil, &SecretNotFoundError{Name: name, Key: key}
	}
}

func byPartsStore() definition.Database {
	return definition.Database{Connection: &definition.Connection{Host: "db", Port: 5433, Database: "app",
		UsernameSecretRef: definition.SecretKey{Name: "db", Key: "user"}, PasswordSecretRef: &definition.SecretKey{Name: "db", Key: "password"}}}
}

func byURLStore() definition.Database {
	return definition.Database{URLSecretRef: &definition.SecretKey{Name: "db", Key: "uri"}}
}

func TestTargetFindsThePlace(t *testing.T) {
	cases := map[string]struct {
		store   definition.Database
		secrets map[string]string
	}{
		"by URL":   {byURLStore(), map[string]string{"db/uri": "postgres://me:secret@db:5433/app"}},
		"by parts": {byPartsStore(), map[string]string{"db/user": "me\n", "db/password": "secret\n"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Target(t.Context(), definition.UseStore, tc.store, secretsOf(tc.secrets))
			if err != nil {
				t.Fatal(err)
			}
			want := []any{"db", uint16(5433), "app", "me", "secret"}
			if diff := cmp.Diff(want, []any{got.Host, got.Port, got.Database, got.User, got.Password}); diff != "" {
				t.Error(diff)
			}
			if got.TLS != nil || !got.PreferTLS {
				t.Error("without tls, TLS is used where the server offers it")
			}
		})
	}
}

func TestTargetEncryptsAsAsked(t *testing.T) {
	authority := selfSigned(t)
	cases := map[string]struct {
		sslmode string
		tls     *definition.TLS
		wantTLS bool
		skip    bool // the usual verification is off
		chain   bool // another one is on
	}{
		"disable in the URL":                       {sslmode: "disable"},
		"require in the URL":                       {sslmode: "require", wantTLS: true, skip: true},
		"verify-full in the URL":                   {sslmode: "verify-full", wantTLS: true},
		"Disable over require":                     {sslmode: "require", tls: &definition.TLS{Mode: "Disable"}},
		"Require over disable":                     {sslmode: "disable", tls: &definition.TLS{Mode: "Require"}, wantTLS: true, skip: true},
		"Require with a CA, which is then checked": {sslmode: "disable", tls: &definition.TLS{Mode: "Require", CASecretRef: &definition.SecretKey{Name: "ca", Key: "crt"}}, wantTLS: true, skip: true, chain: true},
		"VerifyCA":                                 {sslmode: "disable", tls: &definition.TLS{Mode: "VerifyCA"}, wantTLS: true, skip: true, chain: true},
		"VerifyFull with an own CA":                {sslmode: "disable", tls: &definition.TLS{Mode: "VerifyFull", CASecretRef: &definition.SecretKey{Name: "ca", Key: "crt"}}, wantTLS: true},
		"no mode, which is the best":               {sslmode: "disable", tls: &definition.TLS{}, wantTLS: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			store := byURLStore()
			store.TLS = tc.tls
			got, err := Target(t.Context(), definition.UseStore, store, secretsOf(map[string]string{
				"db/uri": "postgres://me@db/app?sslmode=" + tc.sslmode, "ca/crt": authority}))
			if err != nil {
				t.Fatal(err)
			}
			if (got.TLS != nil) != tc.wantTLS || got.PreferTLS {
				t.Fatalf("TLS %v, preferred only %v", got.TLS != nil, got.PreferTLS)
			}
			if tc.wantTLS && (got.TLS.InsecureSkipVerify != tc.skip || (got.TLS.VerifyConnection != nil) != tc.chain || got.TLS.ServerName != "db") {
				t.Errorf("skip %v, chain %v, name %q", got.TLS.InsecureSkipVerify, got.TLS.VerifyConnection != nil, got.TLS.ServerName)
			}
		})
	}
}

func TestTargetOfASocketIgnoresSSLMode(t *testing.T) {
	got, err := Target(t.Context(), definition.UseStore, byURLStore(), secretsOf(map[string]string{"db/uri": "postgres://me@/app?host=/run/postgresql&sslmode=verify-full"}))
	if err != nil {
		t.Fatal(err)
	}
	if got.TLS != nil || got.PreferTLS {
		t.Error("a connection through a socket is encrypted")
	}
}

func TestTargetHasEachSettingOfTheURL(t *testing.T) {
	got, err := Target(t.Context(), definition.UseStore, byURLStore(), secretsOf(map[string]string{
		"db/uri": "postgres://me:secret@db:5433/app?sslmode=disable&connect_timeout=7&target_session_attrs=primary&channel_binding=require"}))
	if err != nil {
		t.Fatal(err)
	}
	want := postgres.Target{Host: "db", Port: 5433, Database: "app", User: "me", Password: "secret",
		ConnectTimeout: 7 * time.Second, Attributes: "primary", ChannelBinding: "require"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTargetSaysWhatIsWrong(t *testing.T) {
	withCA := byURLStore()
	withCA.TLS = &definition.TLS{CASecretRef: &definition.SecretKey{Name: "ca", Key: "crt"}}
	good := "postgres://me:secret@db/app"
	cases := map[string]struct {
		store   definition.Database
		secrets map[string]string
		want    string
	}{
		"no Secret":         {byURLStore(), nil, "Secret db does not exist: create it with the key uri"},
		"no key":            {byURLStore(), map[string]string{"db/url": good}, "Secret db has no key uri: add it, or name another key in spec.store.postgres"},
		"no password":       {byPartsStore(), map[string]string{"db/user": "me"}, "Secret db has no key password"},
		"empty user":        {byPartsStore(), map[string]string{"db/user": " ", "db/password": "x"}, "Secret db, key user: the user's name is empty"},
		"not a URL":         {byURLStore(), map[string]string{"db/uri": "mysql://me:secret@db/app"}, "must begin with postgres://"},
		"a file in the URL": {byURLStore(), map[string]string{"db/uri": good + "?sslkey=/etc/passwd"}, "sslkey is not allowed"},
		"no certificate":    {withCA, map[string]string{"db/uri": good, "ca/crt": "nonsense"}, "Secret ca, key crt: it holds no certificate"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Target(t.Context(), definition.UseStore, tc.store, secretsOf(tc.secrets))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret@") {
				t.Errorf("the error holds the password: %v", err)
			}
		})
	}
}

// TestErrorsOfASourceNameItsFields: a spec has two databases, and both may have a Secret of the same
// form.
func TestErrorsOfASourceNameItsFields(t *testing.T) {
	good := "postgres://me:secret@db/app"
	for name, tc := range map[string]struct {
		source  definition.Database
		secrets map[string]string
		want    string
	}{
		"no key":     {byURLStore(), map[string]string{"db/url": good}, "Secret db has no key uri: add it, or name another key in spec.source.postgres"},
		"not a URL":  {byURLStore(), map[string]string{"db/uri": "mysql://db"}, "Secret db, key uri: the source's URL must begin with postgres://"},
		"a file":     {byURLStore(), map[string]string{"db/uri": good + "?sslkey=x"}, "in source.postgres.tls.certificateSecretRef"},
		"no user":    {byPartsStore(), map[string]string{"db/password": "x"}, "Secret db has no key user: add it, or name another key in spec.source.postgres"},
		"no address": {definition.Database{}, nil, "spec.source.postgres has neither urlSecretRef nor connection: set one"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Target(t.Context(), definition.UseSource, tc.source, secretsOf(tc.secrets))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestKindsOfErrorsCanBeToldApart(t *testing.T) {
	_, err := Target(t.Context(), definition.UseStore, byURLStore(), secretsOf(nil))
	if missing := (*SecretNotFoundError)(nil); !errors.As(err, &missing) || missing.Name != "db" || missing.Key != "uri" {
		t.Errorf("a missing Secret gives %#v", err)
	}
	_, err = Target(t.Context(), definition.UseStore, byURLStore(), secretsOf(map[string]string{"db/uri": "?"}))
	if invalid := (*InvalidError)(nil); !errors.As(err, &invalid) {
		t.Errorf("an invalid URL gives %#v", err)
	}
}

func selfSigned(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
