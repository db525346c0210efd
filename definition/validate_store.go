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
	c.database(at, postgres.Database)
	c.schema(at+".schema", postgres.Schema)
	c.oneOf(at+".migrations", postgres.Migrations, MigrationsAuto, MigrationsManual)
	if postgres.ExpectedStoreID != "" {
		c.require(storeID.MatchString(postgres.ExpectedStoreID), at+".expectedStoreID", rules.StoreID)
	}
}

// database checks how one is reached.
func (c *checker) database(at string, database Database) {
	c.require((database.URLSecretRef != nil) != (database.Connection != nil), at, rules.DatabaseConnection)
	if ref := database.URLSecretRef; ref != nil {
		c.secretKey(at+".urlSecretRef", *ref)
	}
	if database.Connection != nil {
		c.connection(at+".connection", *database.Connection)
	}
	if database.TLS != nil {
		c.tls(at+".tls", *database.TLS)
	}
}

func (c *checker) schema(at, schema string) {
	c.short(at, schema, 63)
	c.require(schemaName.MatchString(schema) && !strings.HasPrefix(schema, "pg_"), at, rules.SchemaName)
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
