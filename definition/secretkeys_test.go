package definition

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSecretKeys(t *testing.T) {
	store := Postgres{Connection: &Connection{Host: "db", Database: "app", UsernameSecretRef: SecretKey{Name: "db", Key: "user"}, PasswordSecretRef: &SecretKey{Name: "db", Key: "password"}}}
	store.TLS = &TLS{CASecretRef: &SecretKey{Name: "db", Key: "user"}, CertificateSecretRef: &Secret{Name: "client"}}
	want := []SecretKey{{Name: "db", Key: "user"}, {Name: "db", Key: "password"}, {Name: "client", Key: "tls.crt"}, {Name: "client", Key: "tls.key"}}
	if diff := cmp.Diff(want, store.SecretKeys()); diff != "" {
		t.Error(diff)
	}
}
