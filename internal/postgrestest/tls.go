package postgrestest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/localpostgres"
)

// StartTLS starts a server for this test only that accepts TLS, and returns the server's self-signed
// certificate, PEM. The role scram, with the password secret, has to authenticate by SCRAM. If the
// server was built without TLS, the test is skipped.
func StartTLS(t testing.TB) (server *localpostgres.Server, authority string) {
	t.Helper()
	ctx := context.Background()
	server = Start(t)
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var library string
	if err := conn.QueryRow(ctx, "SHOW ssl_library").Scan(&library); err != nil {
		t.Fatal(err)
	}
	if library == "" {
		t.Skip("this PostgreSQL was built without TLS")
	}
	certificate, key := selfSigned(t)
	for file, text := range map[string]string{"server.crt": certificate, "server.key": key} {
		if _, err := conn.Exec(ctx, "COPY (SELECT unnest(string_to_array('"+text+"', E'\\n'))) TO PROGRAM 'umask 077; cat > "+file+"'"); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{
		"CREATE ROLE scram LOGIN PASSWORD 'secret'",
		"COPY (SELECT 'host all scram all scram-sha-256') TO PROGRAM 'cat - pg_hba.conf > pg_hba.new && mv pg_hba.new pg_hba.conf'",
		"ALTER SYSTEM SET ssl = on",
		"SELECT pg_reload_conf()",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); !accepts(server); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server does not accept TLS")
		}
	}
	return server, certificate
}

// accepts reports whether a server has read its settings again and accepts TLS.
func accepts(server *localpostgres.Server) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	config, err := pgx.ParseConfig(server.URL("postgres"))
	if err != nil {
		return false
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false
	}
	defer conn.Close(ctx)
	var on string
	return conn.QueryRow(ctx, "SHOW ssl").Scan(&on) == nil && on == "on"
}

func selfSigned(t testing.TB) (certificate, private string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private8}))
}
