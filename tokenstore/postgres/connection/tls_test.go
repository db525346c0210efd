package connection

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func TestTheServerIsVerifiedAsAsked(t *testing.T) {
	server, authority := postgrestest.StartTLS(t)
	const verifies = "certificate signed by unknown authority"
	ca := &definition.SecretKey{Name: "ca", Key: "crt"}
	for name, tc := range map[string]struct {
		host, settings, authority string
		tls                       *definition.TLS
		encrypted                 bool
		want                      string
	}{
		"Require":                                 {encrypted: true, tls: &definition.TLS{Mode: "Require"}},
		"Require, the server's authority":         {encrypted: true, tls: &definition.TLS{Mode: "Require", CASecretRef: ca}, authority: authority},
		"Require, another authority":              {tls: &definition.TLS{Mode: "Require", CASecretRef: ca}, authority: selfSigned(t), want: verifies},
		"VerifyCA, the server's authority":        {encrypted: true, tls: &definition.TLS{Mode: "VerifyCA", CASecretRef: ca}, authority: authority},
		"VerifyCA, another authority":             {tls: &definition.TLS{Mode: "VerifyCA", CASecretRef: ca}, authority: selfSigned(t), want: verifies},
		"VerifyFull, the server's authority":      {host: "localhost", encrypted: true, tls: &definition.TLS{Mode: "VerifyFull", CASecretRef: ca}, authority: authority},
		"VerifyFull, another name":                {tls: &definition.TLS{Mode: "VerifyFull", CASecretRef: ca}, authority: authority, want: "IP SANs"},
		"sslmode=verify-full":                     {settings: "sslmode=verify-full", want: "failed to verify certificate"},
		"sslmode=prefer":                          {settings: "sslmode=prefer", encrypted: true},
		"sslmode=disable":                         {settings: "sslmode=disable"},
		"channel binding":                         {settings: "sslmode=require&channel_binding=require", encrypted: true},
		"channel binding without TLS":             {settings: "sslmode=disable&channel_binding=require", want: "channel binding required"},
		"TLS where the spec says so, not the URL": {settings: "sslmode=disable", encrypted: true, tls: &definition.TLS{Mode: "Require"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			host := tc.host
			if host == "" {
				host = "127.0.0.1"
			}
			store := byURLStore()
			store.TLS = tc.tls
			conn, err := postgres.Connect(ctx, postgres.Options{Target: func(ctx context.Context) (postgres.Target, error) {
				return Target(ctx, definition.UseStore, store, secretsOf(map[string]string{"ca/crt": tc.authority,
					"db/uri": fmt.Sprintf("postgres://scram:secret@%s:%d/postgres?%s", host, server.Port(), tc.settings)}))
			}})
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want an error with %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(ctx)
			var encrypted bool
			if err := conn.QueryRow(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted); err != nil {
				t.Fatal(err)
			}
			if encrypted != tc.encrypted {
				t.Errorf("encrypted: %t", encrypted)
			}
		})
	}
}
