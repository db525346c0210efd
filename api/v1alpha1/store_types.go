package v1alpha1

// Store is the database that holds tokens and projections.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'Postgres' && has(self.postgres)",message="type names the one field to set: type Postgres needs postgres"
type Store struct {
	// type names the kind of store.
	// +required
	Type StoreType `json:"type"`
	// postgres says how to reach a PostgreSQL database.
	// +optional
	Postgres *PostgresStore `json:"postgres,omitempty"`
}

// StoreType names a kind of store.
//
// +kubebuilder:validation:Enum=Postgres
type StoreType string

// StoreTypePostgres is a PostgreSQL database.
const StoreTypePostgres StoreType = "Postgres"

// PostgresStore says how to reach a PostgreSQL database, by a URL or by its parts.
//
// +kubebuilder:validation:XValidation:rule="has(self.urlSecretRef) != has(self.connection)",message="exactly one of urlSecretRef and connection must be set"
type PostgresStore struct {
	// urlSecretRef names the Secret with a URL, such as postgres://user:password@host:5432/database.
	// +optional
	URLSecretRef *URLSecretReference `json:"urlSecretRef,omitempty"`
	// connection gives the parts of a connection one by one.
	// +optional
	Connection *PostgresConnection `json:"connection,omitempty"`
	// tls says how the connection is encrypted and whom it trusts. Without it the URL's sslmode holds; without that the
	// connection is encrypted where the server offers it, and the server is not verified.
	// +optional
	TLS *PostgresTLS `json:"tls,omitempty"`
	// schema is the PostgreSQL schema of Sluice's tables. It cannot be changed.
	// +optional
	// +kubebuilder:default=sluice
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z_][a-z0-9_]*$') && !self.startsWith('pg_')",message="must be a PostgreSQL schema in lower case: letters a to z, digits and '_', not beginning with a digit or pg_"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="schema cannot be changed, because the tokens are in it: create a processor with another name instead"
	Schema string `json:"schema,omitempty"`
	// migrations is Auto where operator and workers may create and upgrade Sluice's tables, Manual where somebody does
	// that by hand with sluice migrate.
	// +optional
	// +kubebuilder:default=Auto
	Migrations Migrations `json:"migrations,omitempty"`
	// expectedStoreID accepts a store other than the one in status.storeID: pods that connect to
	// another store handle nothing until its id stands here.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')",message="must be a store's id as status.storeID shows it, a UUID in lower case"
	ExpectedStoreID string `json:"expectedStoreID,omitempty"`
}

// Migrations says who upgrades Sluice's tables.
//
// +kubebuilder:validation:Enum=Auto;Manual
type Migrations string

// Ways to upgrade Sluice's tables.
const (
	MigrationsAuto   Migrations = "Auto"
	MigrationsManual Migrations = "Manual"
)

// URLSecretReference names a URL in a Secret of the same namespace.
type URLSecretReference struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// key within the Secret.
	// +optional
	// +kubebuilder:default=uri
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// SecretKeyReference names a value in a Secret of the same namespace.
type SecretKeyReference struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// key within the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// SecretReference names a Secret of the same namespace.
type SecretReference struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// PostgresConnection gives the parts of a connection one by one.
type PostgresConnection struct {
	// host is a name or an address.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Host string `json:"host"`
	// port of the server.
	// +optional
	// +kubebuilder:default=5432
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// database to connect to.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Database string `json:"database"`
	// usernameSecretRef names the role to connect as.
	// +required
	UsernameSecretRef SecretKeyReference `json:"usernameSecretRef"`
	// passwordSecretRef names the role's password. Without it the server has to accept another proof, such as the
	// client certificate in tls.
	// +optional
	PasswordSecretRef *SecretKeyReference `json:"passwordSecretRef,omitempty"`
}

// PostgresTLS says how connections are encrypted.
//
// +kubebuilder:validation:XValidation:rule="self.mode != 'Disable' || (!has(self.caSecretRef) && !has(self.certificateSecretRef))",message="mode Disable takes no secrets: remove caSecretRef and certificateSecretRef, or choose Require, VerifyCA or VerifyFull"
type PostgresTLS struct {
	// mode is Disable (never encrypted), Require (encrypted, the server is not verified), VerifyCA
	// (the server's certificate is) or VerifyFull (its name is, too). It goes before the URL's
	// sslmode. Require with caSecretRef verifies as VerifyCA does.
	// +optional
	// +kubebuilder:default=VerifyFull
	Mode TLSMode `json:"mode,omitempty"`
	// caSecretRef names the PEM bundle of the authorities to trust; without it those of the image are.
	// +optional
	CASecretRef *SecretKeyReference `json:"caSecretRef,omitempty"`
	// certificateSecretRef names a Secret of type kubernetes.io/tls with the client's certificate and key.
	// +optional
	CertificateSecretRef *SecretReference `json:"certificateSecretRef,omitempty"`
}

// TLSMode says how far a connection is protected.
//
// +kubebuilder:validation:Enum=Disable;Require;VerifyCA;VerifyFull
type TLSMode string

// TLS modes, from the weakest to the strongest.
const (
	TLSModeDisable    TLSMode = "Disable"
	TLSModeRequire    TLSMode = "Require"
	TLSModeVerifyCA   TLSMode = "VerifyCA"
	TLSModeVerifyFull TLSMode = "VerifyFull"
)
