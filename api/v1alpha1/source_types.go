package v1alpha1

// Source is where events come from.
//
// +kubebuilder:validation:XValidation:rule="has(self.table) == (self.type == 'Table')",message="type Table needs table, and type Store takes none"
// +kubebuilder:validation:XValidation:rule="self.type == 'Store' || !has(self.postgres) || self.postgres.schema == 'sluice'",message="postgres.schema is that of Sluice's own event table, which type Table does not read: leave it out; the schema of a table of your own is in table.name"
// +kubebuilder:validation:XValidation:rule="has(self.postgres) == has(oldSelf.postgres)",message="postgres cannot be added or taken away, because tokens are progress in the database that they were written for: create a processor with other groups instead"
type Source struct {
	// type names the kind of source: Store is Sluice's own event table, Table a table of your own. It cannot be changed.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="type cannot be changed, because tokens are progress in that source: create a processor with other groups instead"
	Type SourceType `json:"type"`
	// postgres says how to reach the database with the events if it is not the store's. Without it, the events are in the
	// store's database. It cannot be added or taken away; how the database is reached may change.
	// +optional
	Postgres *PostgresSource `json:"postgres,omitempty"`
	// table says how events stand in a table of your own, for type Table.
	// +optional
	Table *TableSource `json:"table,omitempty"`
}

// SourceType names a kind of source.
//
// +kubebuilder:validation:Enum=Store;Table
type SourceType string

// Kinds of sources.
const (
	SourceTypeStore SourceType = "Store"
	SourceTypeTable SourceType = "Table"
)

// PostgresSource says how to reach a PostgreSQL database with events, by a URL or by its parts.
//
// +kubebuilder:validation:XValidation:rule="has(self.urlSecretRef) != has(self.connection)",message="exactly one of urlSecretRef and connection must be set"
type PostgresSource struct {
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
	// schema is the PostgreSQL schema of Sluice's own event table there, for type Store. It cannot be changed.
	// +optional
	// +kubebuilder:default=sluice
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z_][a-z0-9_]*$') && !self.startsWith('pg_')",message="must be a PostgreSQL schema in lower case: letters a to z, digits and '_', not beginning with a digit or pg_"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="schema cannot be changed, because tokens are progress in the event table of that schema: create a processor with other groups instead"
	Schema string `json:"schema,omitempty"`
}

// TableSource says how events stand in a table: one a row, never changed but for columns that are not named here.
//
// +kubebuilder:validation:XValidation:rule="self.positions == 'Inserted' || self.order == 'None' || (has(self.columns.version) && !has(self.columns.transaction))",message="positions Transaction and Reserved keep a stream's events in their order only where columns.version is mapped and columns.transaction is not: do so, or declare order: None"
type TableSource struct {
	// name of the table, as schema.table. It cannot be changed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_$]*[.][A-Za-z_][A-Za-z0-9_$]*$')",message="must be schema.table, both as PostgreSQL has them, in the same case: letters a to z and A to Z, digits, '_' and '$', not beginning with a digit"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="name cannot be changed, because tokens are progress in that table: create a processor with other groups instead"
	Name string `json:"name"`
	// positions says when writers take an event's position: Inserted, in the statement that inserts it, from a sequence with cache 1;
	// Transaction, earlier in the same transaction; Reserved, in blocks at any time before. Only with Inserted a stream's events have
	// positions in their order.
	// +optional
	// +kubebuilder:default=Inserted
	Positions TablePositions `json:"positions,omitempty"`
	// order says what is promised of a stream's events: Stream, that they are handled in their order; None, nothing. With positions
	// Transaction and Reserved, Stream is that of columns.version, by which an event waits for the one before it, and needs a unique index on the
	// columns of stream and version, and no columns.transaction.
	// +optional
	// +kubebuilder:default=Stream
	Order TableOrder `json:"order,omitempty"`
	// sequence, as schema.sequence, is what positions are taken from. It is needed only without columns.transaction, and where the default of the position's
	// column does not say.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_$]*[.][A-Za-z_][A-Za-z0-9_$]*$')",message="must be schema.sequence, both as PostgreSQL has them, in the same case: letters a to z and A to Z, digits, '_' and '$', not beginning with a digit"
	Sequence string `json:"sequence,omitempty"`
	// columns are those with an event's fields.
	// +required
	Columns TableColumns `json:"columns"`
	// data is the column with an event's data.
	// +required
	Data TablePayload `json:"data"`
	// metadata is the column with an event's metadata; without it, that is {}.
	// +optional
	Metadata *TablePayload `json:"metadata,omitempty"`
}

// TablePositions says when positions are taken.
//
// +kubebuilder:validation:Enum=Inserted;Transaction;Reserved
type TablePositions string

// When positions are taken.
const (
	TablePositionsInserted    TablePositions = "Inserted"
	TablePositionsTransaction TablePositions = "Transaction"
	TablePositionsReserved    TablePositions = "Reserved"
)

// TableOrder says what is promised of the order of a stream's events.
//
// +kubebuilder:validation:Enum=Stream;None
type TableOrder string

// What is promised of the order of a stream's events.
const (
	TableOrderStream TableOrder = "Stream"
	TableOrderNone   TableOrder = "None"
)

// TableColumns are the columns with an event's fields.
//
// +kubebuilder:validation:XValidation:rule="has(self.transaction) == has(oldSelf.transaction)",message="transaction cannot be added or taken away, because tokens are written by it: create a processor with other groups instead"
type TableColumns struct {
	// position is a unique number from 1 on, smallint, integer or bigint, usually the primary key. It cannot be changed.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="position cannot be changed, because tokens are positions of that column: create a processor with other groups instead"
	Position ColumnName `json:"position"`
	// transaction is the column of type xid8 that holds the transaction which inserted the event; sluice source prepare adds it. Without
	// it, positions that have no event yet are watched until nobody can fill them any more. It cannot be added or taken away later, as tokens
	// are written by it.
	// +optional
	Transaction ColumnName `json:"transaction,omitempty"`
	// stream is the id of the event's stream, such as that of an aggregate.
	// +required
	Stream ColumnName `json:"stream"`
	// version is the event's number within its stream.
	// +optional
	Version ColumnName `json:"version,omitempty"`
	// type is the event's type.
	// +required
	Type ColumnName `json:"type"`
	// id is the event's own id; without it, that is the position.
	// +optional
	ID ColumnName `json:"id,omitempty"`
	// recordedAt is when it was written: a time, or a text that PostgreSQL can read as one.
	// +required
	RecordedAt ColumnName `json:"recordedAt"`
}

// ColumnName is the name of a column.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_$]*$')",message="must be a column's name as PostgreSQL has it, in the same case: letters a to z and A to Z, digits, '_' and '$', not beginning with a digit"
type ColumnName string

// TablePayload is a column with data or metadata.
//
// +kubebuilder:validation:XValidation:rule="self.content == 'JSON' || self.type == 'Bytea' || self.type == 'LargeObject' || (self.content == 'Text' && self.type == 'Text')",message="content Text needs a column of type Text, Bytea or LargeObject, and content Base64 one of type Bytea or LargeObject"
type TablePayload struct {
	// column is its name.
	// +required
	Column ColumnName `json:"column"`
	// type of the column: JSONB, JSON, Text, Bytea, or LargeObject for the oid of a large object.
	// +optional
	// +kubebuilder:default=JSONB
	Type PayloadType `json:"type,omitempty"`
	// content is JSON, which handlers get as it is; Text, which they get as a JSON string; or Base64, any bytes, which they get as a
	// JSON string in base64.
	// +optional
	// +kubebuilder:default=JSON
	Content PayloadContent `json:"content,omitempty"`
}

// PayloadType is the type of a column with data.
//
// +kubebuilder:validation:Enum=JSONB;JSON;Text;Bytea;LargeObject
type PayloadType string

// Types of columns with data.
const (
	PayloadTypeJSONB       PayloadType = "JSONB"
	PayloadTypeJSON        PayloadType = "JSON"
	PayloadTypeText        PayloadType = "Text"
	PayloadTypeBytea       PayloadType = "Bytea"
	PayloadTypeLargeObject PayloadType = "LargeObject"
)

// PayloadContent says what a column with data holds.
//
// +kubebuilder:validation:Enum=JSON;Text;Base64
type PayloadContent string

// What a column with data holds.
const (
	PayloadContentJSON   PayloadContent = "JSON"
	PayloadContentText   PayloadContent = "Text"
	PayloadContentBase64 PayloadContent = "Base64"
)
