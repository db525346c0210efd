package definition

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSecretKeysOfASpecAreThoseOfStoreAndSource(t *testing.T) {
	store, source := SecretKey{Name: "db", Key: "uri"}, SecretKey{Name: "events", Key: "uri"}
	authority := &TLS{CASecretRef: &SecretKey{Name: "ca", Key: "ca.crt"}}
	spec := Spec{Store: Store{Postgres: &Postgres{Database: Database{URLSecretRef: &store, TLS: authority}}}}
	want := []SecretKey{store, {Name: "ca", Key: "ca.crt"}}
	if diff := cmp.Diff(want, spec.SecretKeys()); diff != "" {
		t.Error("of the store alone:", diff)
	}
	spec.Source.Postgres = &SourcePostgres{Database: Database{URLSecretRef: &source, TLS: authority}}
	if diff := cmp.Diff(append(want, source), spec.SecretKeys()); diff != "" {
		t.Error("of both:", diff)
	}
	if keys := (Spec{}).SecretKeys(); keys != nil {
		t.Errorf("a spec without a database has %v", keys)
	}
}

func TestSecretKeys(t *testing.T) {
	store := Postgres{Database: Database{Connection: &Connection{Host: "db", Database: "app",
		UsernameSecretRef: SecretKey{Name: "db", Key: "user"}, PasswordSecretRef: &SecretKey{Name: "db", Key: "password"}}}}
	store.TLS = &TLS{CASecretRef: &SecretKey{Name: "db", Key: "user"}, CertificateSecretRef: &Secret{Name: "client"}}
	want := []SecretKey{{Name: "db", Key: "user"}, {Name: "db", Key: "password"}, {Name: "client", Key: "tls.crt"}, {Name: "client", Key: "tls.key"}}
	if diff := cmp.Diff(want, store.SecretKeys()); diff != "" {
		t.Error(diff)
	}
}
