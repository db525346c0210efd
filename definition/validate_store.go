package definition

import (
	"strings"

	"github.com/sluice-project/sluice/api/rules"
)

func (c *checker) store(store Store) {
	if !c.oneOf("spec.store.type", store.Type, StorePostgres) {
		return
	}
	if c.require(store.Postgres != nil, "spec.store", rules.StoreUnion) {
		c.postgres("spec.store.postgres", *store.Postgres)
	}
}

func (c *checker) postgres(at string, postgres Postgres) {
	c.require((postgres.URLSecretRef != nil) != (postgres.Connection != nil), at, rules.StoreConnection)
	if ref := postgres.URLSecretRef; ref != nil {
		c.secretKey(at+".urlSecretRef", *ref)
	}
	if postgres.Connection != nil {
		c.connection(at+".connection", *postgres.Connection)
	}
	if postgres.TLS != nil {
		c.tls(at+".tls", *postgres.TLS)
	}
	c.short(at+".schema", postgres.Schema, 63)
	c.require(schemaName.MatchString(postgres.Schema) && !strings.HasPrefix(postgres.Schema, "pg_"),
		at+".schema", rules.SchemaName)
	c.oneOf(at+".migrations", postgres.Migrations, MigrationsAuto, MigrationsManual)
	if postgres.ExpectedStoreID != "" {
		c.require(storeID.MatchString(postgres.ExpectedStoreID), at+".expectedStoreID", rules.StoreID)
	}
}

func (c *checker) connection(at string, connection Connection) {
	c.text(at+".host", connection.Host, 253)
	c.between(at+".port", connection.Port, 1, 65535)
	c.text(at+".database", connection.Database, 63)
	c.secretKey(at+".usernameSecretRef", connection.UsernameSecretRef)
	if ref := connection.PasswordSecretRef; ref != nil {
		c.secretKey(at+".passwordSecretRef", *ref)
	}
}

func (c *checker) tls(at string, tls TLS) {
	c.oneOf(at+".mode", tls.Mode, TLSDisable, TLSRequire, TLSVerifyCA, TLSVerifyFull)
	c.require(tls.Mode != TLSDisable || (tls.CASecretRef == nil && tls.CertificateSecretRef == nil), at, rules.TLSDisabled)
	if ref := tls.CASecretRef; ref != nil {
		c.secretKey(at+".caSecretRef", *ref)
	}
	if ref := tls.CertificateSecretRef; ref != nil {
		c.text(at+".certificateSecretRef.name", ref.Name, 253)
	}
}

func (c *checker) secretKey(at string, ref SecretKey) {
	c.text(at+".name", ref.Name, 253)
	c.text(at+".key", ref.Key, 253)
}
