// Package rules holds the text of every rule of the API that is more than a bound of one field. The CEL markers in
// api/v1alpha1 repeat these texts (a marker cannot refer to a constant; a test holds both against each other), and
// package definition, the operator and the docs use them, so that a mistake reads the same wherever it is found.
//
// A text says what is wrong and what to change; the field is named by whoever reports it.
package rules

// Rules of EventProcessor.
const (
	ProcessorName = "metadata.name must be a DNS label of at most 52 characters: lower-case letters a to z, digits and '-'," +
		" beginning and ending with a letter or a digit"
	DNSLabel = "must be a DNS label: lower-case letters a to z, digits and '-', beginning and ending with a letter or a digit"
	NotBlank = "must not be blank: write a value or remove the field"

	StoreUnion         = "type names the one field to set: type Postgres needs postgres"
	DatabaseConnection = "exactly one of urlSecretRef and connection must be set"
	SchemaName         = "must be a PostgreSQL schema in lower case: letters a to z, digits and '_', not beginning with a digit or pg_"
	SchemaImmutable    = "schema cannot be changed, because the tokens are in it: create a processor with another name instead"
	StoreID            = "must be a store's id as status.storeID shows it, a UUID in lower case"
	TLSDisabled        = "mode Disable takes no secrets: remove caSecretRef and certificateSecretRef," +
		" or choose Require, VerifyCA or VerifyFull"

	SourceUnion        = "type Table needs table, and type Store takes none"
	SourceImmutable    = "type cannot be changed, because tokens are progress in that source: create a processor with other groups instead"
	SourcePostgresKept = "postgres cannot be added or taken away, because tokens are progress in the database that they were written for:" +
		" create a processor with other groups instead"
	SourceSchema = "postgres.schema is that of Sluice's own event table, which type Table does not read: leave it out;" +
		" the schema of a table of your own is in table.name"
	SourceSchemaImmutable = "schema cannot be changed, because tokens are progress in the event table of that schema:" +
		" create a processor with other groups instead"
	TableName    = "must be schema.table, both as PostgreSQL has them, in the same case: letters a to z and A to Z, digits, '_' and '$', not beginning with a digit"
	SequenceName = "must be schema.sequence, both as PostgreSQL has them, in the same case: letters a to z and A to Z, digits, '_' and '$', not beginning with a digit"
	TableOrder   = "positions Transaction and Reserved keep a stream's events in their order only where columns.version is mapped and columns.transaction is not:" +
		" do so, or declare order: None"
	TableImmutable    = "name cannot be changed, because tokens are progress in that table: create a processor with other groups instead"
	TransactionKept   = "transaction cannot be added or taken away, because tokens are written by it: create a processor with other groups instead"
	PositionImmutable = "position cannot be changed, because tokens are positions of that column: create a processor with other groups instead"
	ColumnName        = "must be a column's name as PostgreSQL has it, in the same case: letters a to z and A to Z, digits, '_' and '$', not beginning with a digit"
	PayloadContent    = "content Text needs a column of type Text, Bytea or LargeObject, and content Base64 one of type Bytea or LargeObject"

	InitialPositionImmutable = "initialPosition is used once, when the group first starts, and cannot be changed:" +
		" create a Replay to read events again"
	SequencingUnion = "type Property needs property, type Metadata needs metadata, and the other types take neither"
	PropertyPath    = "must be names of fields with dots between them, such as customer.id"
	PlaceUnion      = "type Position needs position, type Timestamp needs timestamp, and the other types take neither"
	ReplayID        = "must be a DNS label, since a Replay's name is made of it: lower-case letters a to z, digits and '-'," +
		" beginning and ending with a letter or a digit"
	ReplayGroups   = "replay.groups must be processing groups of this processor"
	ReplayDeclared = "groups, from and context cannot be changed under the same id: choose another id"
	HandlerUnion   = "exactly one handler must be set, the one that type names:" +
		" sql for type SQL; go, which may be left out, for type Go"
	RowsBySequence = "handler.rows BySequence needs sequences, and sequencing Broadcast has none:" +
		" every segment handles every event; leave rows out"
	StatementUnion = "exactly one of batch and each must be set"
	EventType      = "must be a type's whole name, without *: name each type, or leave eventTypes out for events of all types"
	BlankSQL       = "must not be blank: write SQL or remove the field"
	SegmentsSum    = "the segments of all processing groups together must not be more than 65536:" +
		" lower segments, or move groups into another processor"
	Lease      = "must be a duration from 2s to 1m, such as 5s"
	Timeout    = "must be 0s for no limit, or a duration from 100ms to 24h, such as 30s or 1m30s"
	RetryDelay = "must be a duration from 10ms to 1h, such as 500ms or 1m30s"
	RetryOrder = "max must not be shorter than initial"

	TemplateWorker = "spec.containers must have a container named worker, the one that runs the handlers:" +
		" give the container with your image that name"
	TemplateInitWorker    = "no init container may be named worker: the container that runs the handlers has that name"
	TemplateRestartPolicy = "spec.restartPolicy must not be set: the containers of a processor are always restarted"
	TemplateLabels        = "metadata.labels must not have keys under sluice.dev/: the operator sets those"
)

// Rules of Replay.
const (
	ReplayName = "a metadata.name with a dot must begin with spec.processorName and that dot," +
		" such as payments.fix-rounding for the processor payments"
	ReplayImmutable = "only desiredState can be changed: create a Replay with a new name instead"
)

// Rule is one rule: where it holds and how its violation reads.
type Rule struct {
	// Name is the constant's name.
	Name string
	// Kinds are the kinds that have the rule.
	Kinds []string
	// Text is what a violation says.
	Text string
}

// All returns every rule, in the order of the constants.
func All() []Rule {
	processor, replay := []string{"EventProcessor"}, []string{"Replay"}
	both := []string{"EventProcessor", "Replay"}
	return []Rule{
		{"ProcessorName", processor, ProcessorName},
		{"DNSLabel", both, DNSLabel},
		{"NotBlank", processor, NotBlank},
		{"StoreUnion", processor, StoreUnion},
		{"DatabaseConnection", processor, DatabaseConnection},
		{"SchemaName", processor, SchemaName},
		{"SchemaImmutable", processor, SchemaImmutable},
		{"StoreID", processor, StoreID},
		{"TLSDisabled", processor, TLSDisabled},
		{"SourceUnion", processor, SourceUnion},
		{"SourceImmutable", processor, SourceImmutable},
		{"SourcePostgresKept", processor, SourcePostgresKept},
		{"SourceSchema", processor, SourceSchema},
		{"SourceSchemaImmutable", processor, SourceSchemaImmutable},
		{"TableName", processor, TableName},
		{"SequenceName", processor, SequenceName},
		{"TableOrder", processor, TableOrder},
		{"TableImmutable", processor, TableImmutable},
		{"TransactionKept", processor, TransactionKept},
		{"PositionImmutable", processor, PositionImmutable},
		{"ColumnName", processor, ColumnName},
		{"PayloadContent", processor, PayloadContent},
		{"InitialPositionImmutable", processor, InitialPositionImmutable},
		{"SequencingUnion", processor, SequencingUnion},
		{"PropertyPath", processor, PropertyPath},
		{"PlaceUnion", both, PlaceUnion},
		{"ReplayID", processor, ReplayID},
		{"ReplayGroups", processor, ReplayGroups},
		{"ReplayDeclared", processor, ReplayDeclared},
		{"HandlerUnion", processor, HandlerUnion},
		{"RowsBySequence", processor, RowsBySequence},
		{"StatementUnion", processor, StatementUnion},
		{"EventType", processor, EventType},
		{"BlankSQL", processor, BlankSQL},
		{"SegmentsSum", processor, SegmentsSum},
		{"Lease", processor, Lease},
		{"Timeout", processor, Timeout},
		{"RetryDelay", processor, RetryDelay},
		{"RetryOrder", processor, RetryOrder},
		{"TemplateWorker", processor, TemplateWorker},
		{"TemplateInitWorker", processor, TemplateInitWorker},
		{"TemplateRestartPolicy", processor, TemplateRestartPolicy},
		{"TemplateLabels", processor, TemplateLabels},
		{"ReplayName", replay, ReplayName},
		{"ReplayImmutable", replay, ReplayImmutable},
	}
}
