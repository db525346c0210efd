package definition

import (
	"encoding/json"
	"slices"
)

// Spec has the JSON shape of EventProcessor.spec; docs/spec/eventprocessor.md describes the fields.
type Spec struct {
	DesiredState     DesiredState    `json:"desiredState,omitempty"`
	Replicas         *int32          `json:"replicas,omitempty"`
	DeletionPolicy   string          `json:"deletionPolicy,omitempty"`
	Lease            Duration        `json:"lease,omitempty"`
	ErrorDetails     string          `json:"errorDetails,omitempty"`
	TakeOverFrom     []string        `json:"takeOverFrom,omitempty"`
	Store            Store           `json:"store"`
	Source           Source          `json:"source,omitzero"`
	ProcessingGroups []Group         `json:"processingGroups"`
	Replay           *Replay         `json:"replay,omitempty"`
	Template         json.RawMessage `json:"template,omitempty"` // a PodTemplateSpec
}

// Replay asks for a replay of groups, once.
type Replay struct {
	ID      string            `json:"id"`
	Groups  []string          `json:"groups"`
	From    InitialPosition   `json:"from,omitzero"`
	Context map[string]string `json:"context,omitempty"`
}

// DesiredState says whether batches begin.
type DesiredState string

// States that can be wanted of a processor and of a group.
const (
	Running DesiredState = "Running"
	Paused  DesiredState = "Paused"
)

// Policies for a deleted processor's rows.
const (
	Retain = "Retain"
	Delete = "Delete"
)

// Choices for those details of errors that may hold data of events.
const (
	DetailsHidden = "Hidden"
	DetailsShown  = "Shown"
)

// MostSegments is how many segments all groups of a processor may have together.
const MostSegments = 65536

// Store is the database that holds tokens and projections.
type Store struct {
	Type     string    `json:"type"`
	Postgres *Postgres `json:"postgres,omitempty"`
}

// StorePostgres is the type of a store in PostgreSQL.
const StorePostgres = "Postgres"

// Postgres is a store in a PostgreSQL database.
type Postgres struct {
	Database
	Schema          string `json:"schema,omitempty"`
	Migrations      string `json:"migrations,omitempty"`
	ExpectedStoreID string `json:"expectedStoreID,omitempty"`
}

// Database says how to reach a PostgreSQL database: by URLSecretRef or by Connection.
type Database struct {
	URLSecretRef *SecretKey  `json:"urlSecretRef,omitempty"`
	Connection   *Connection `json:"connection,omitempty"`
	TLS          *TLS        `json:"tls,omitempty"`
}

// SecretKeys are the Secrets that the connections of a spec read, to its store and to its source,
// and which keys of them, without repetition, in the order of the spec.
func (s Spec) SecretKeys() []SecretKey {
	var keys []SecretKey
	if s.Store.Postgres != nil {
		keys = s.Store.Postgres.SecretKeys()
	}
	if s.Source.Postgres != nil {
		keys = append(keys, s.Source.Postgres.SecretKeys()...)
	}
	return withoutRepetition(keys)
}

// SecretKeys are the Secrets that the connection to the database reads, and which keys of them,
// without repetition, in the order of the spec.
func (d Database) SecretKeys() []SecretKey {
	var keys []SecretKey
	if ref := d.URLSecretRef; ref != nil {
		keys = append(keys, *ref)
	}
	if c := d.Connection; c != nil {
		keys = append(keys, c.UsernameSecretRef)
		if c.PasswordSecretRef != nil {
			keys = append(keys, *c.PasswordSecretRef)
		}
	}
	if settings := d.TLS; settings != nil {
		if settings.CASecretRef != nil {
			keys = append(keys, *settings.CASecretRef)
		}
		if ref := settings.CertificateSecretRef; ref != nil {
			keys = append(keys, SecretKey{Name: ref.Name, Key: "tls.crt"}, SecretKey{Name: ref.Name, Key: "tls.key"})
		}
	}
	return withoutRepetition(keys)
}

func withoutRepetition(keys []SecretKey) []SecretKey {
	var unique []SecretKey
	for _, key := range keys {
		if !slices.Contains(unique, key) {
			unique = append(unique, key)
		}
	}
	return unique
}

// Ways to upgrade Sluice's tables.
const (
	MigrationsAuto   = "Auto"
	MigrationsManual = "Manual"
)

// SecretKey names a value in a Secret.
type SecretKey struct {
	Name string `json:"name"`
	Key  string `json:"key,omitempty"`
}

// Secret names a Secret.
type Secret struct {
	Name string `json:"name"`
}

// Connection gives the parts of a connection one by one.
type Connection struct {
	Host              string     `json:"host"`
	Port              int32      `json:"port,omitempty"`
	Database          string     `json:"database"`
	UsernameSecretRef SecretKey  `json:"usernameSecretRef"`
	PasswordSecretRef *SecretKey `json:"passwordSecretRef,omitempty"`
}

// TLS says how connections are encrypted.
type TLS struct {
	Mode                 string     `json:"mode,omitempty"`
	CASecretRef          *SecretKey `json:"caSecretRef,omitempty"`
	CertificateSecretRef *Secret    `json:"certificateSecretRef,omitempty"`
}

// TLS modes, from the weakest to the strongest.
const (
	TLSDisable    = "Disable"
	TLSRequire    = "Require"
	TLSVerifyCA   = "VerifyCA"
	TLSVerifyFull = "VerifyFull"
)

// Source is where events come from; Type names the field that is set.
type Source struct {
	Type string `json:"type"`
	// Postgres is the database with the events if it is not the store's.
	Postgres *SourcePostgres `json:"postgres,omitempty"`
	Table    *Table          `json:"table,omitempty"`
}

// Types of a source.
const (
	SourceStore = "Store" // Sluice's own event table
	SourceTable = "Table" // a table of the user's
)

// SourcePostgres is a PostgreSQL database that holds events and no store.
type SourcePostgres struct {
	Database
	Schema string `json:"schema,omitempty"` // of Sluice's own event table there
}

// DefaultSchema is that of Sluice's own tables where a spec does not say.
const DefaultSchema = "sluice"

// Table says how events stand in a table.
type Table struct {
	Name      string       `json:"name"` // schema.table
	Positions string       `json:"positions,omitempty"`
	Order     string       `json:"order,omitempty"`
	Sequence  string       `json:"sequence,omitempty"` // schema.sequence that positions are taken from, where the column's default does not say
	Columns   TableColumns `json:"columns"`
	Data      Payload      `json:"data"`
	Metadata  *Payload     `json:"metadata,omitempty"`
	// TimeZone is that of times in a column of the type timestamp, which say no zone. It is none of
	// the definition: it is found out where the table is read. Empty where times say their zone.
	TimeZone string `json:"-"`
}

// Ways in which writers take positions.
const (
	PositionsInserted    = "Inserted"    // by the statement that inserts the event
	PositionsTransaction = "Transaction" // earlier in its transaction
	PositionsReserved    = "Reserved"    // in blocks, at any time before
)

// What is promised of the order of a stream's events.
const (
	OrderStream = "Stream" // that of their numbers in the stream
	OrderNone   = "None"   // nothing
)

// TableColumns are the columns of a table that have an event's fields.
type TableColumns struct {
	Position    string `json:"position"`
	Transaction string `json:"transaction,omitempty"` // without it, gaps are watched
	Stream      string `json:"stream"`
	Version     string `json:"version,omitempty"`
	Type        string `json:"type"`
	ID          string `json:"id,omitempty"`
	RecordedAt  string `json:"recordedAt"`
}

// Payload is a column with an event's data or metadata.
type Payload struct {
	Column  string `json:"column"`
	Type    string `json:"type,omitempty"`
	Content string `json:"content,omitempty"`
}

// Types of a payload's column.
const (
	PayloadJSONB       = "JSONB"
	PayloadJSON        = "JSON"
	PayloadText        = "Text"
	PayloadBytea       = "Bytea"
	PayloadLargeObject = "LargeObject"
)

// What a payload's column holds.
const (
	ContentJSON   = "JSON"   // JSON, handed on as it is
	ContentText   = "Text"   // any text, handed on as a JSON string
	ContentBase64 = "Base64" // any bytes, handed on as a JSON string in base64
)

// Group is a processing group.
type Group struct {
	Name            string          `json:"name"`
	Segments        int32           `json:"segments,omitempty"`
	Sequencing      Sequencing      `json:"sequencing,omitzero"`
	InitialPosition InitialPosition `json:"initialPosition,omitzero"`
	MaxBatchSize    int32           `json:"maxBatchSize,omitempty"`
	Timeout         Duration        `json:"timeout,omitempty"` // of a batch; 0s for no limit
	DesiredState    DesiredState    `json:"desiredState,omitempty"`
	Replay          string          `json:"replay,omitempty"` // Allow, Deny, or empty: Allow where there is a reset
	Handler         Handler         `json:"handler"`
	OnError         OnError         `json:"onError,omitzero"`
}

// Sequencing says which events have to be handled in order; Type names the field that is set.
type Sequencing struct {
	Type     string              `json:"type,omitempty"`
	Property *PropertySequencing `json:"property,omitempty"`
	Metadata *MetadataSequencing `json:"metadata,omitempty"`
	Hash     string              `json:"hash,omitempty"`
}

// Types of a sequencing.
const (
	PerStream  = "Stream"
	ByProperty = "Property"
	ByMetadata = "Metadata"
	Sequential = "Sequential"
	Concurrent = "Concurrent"
	Broadcast  = "Broadcast"
)

// Hashes of sequence keys.
const (
	HashDefault = "Default"
	HashJava    = "Java"
)

// PropertySequencing takes the sequence key out of the event's data: Path are names of fields with dots between them.
type PropertySequencing struct {
	Path string `json:"path"`
}

// MetadataSequencing takes the sequence key out of a field of the event's metadata.
type MetadataSequencing struct {
	Key string `json:"key"`
}

// InitialPosition is where a group begins, or goes back to.
type InitialPosition struct {
	Type      string `json:"type"`
	Position  string `json:"position,omitempty"`
	Timestamp string `json:"timestamp,omitempty"` // RFC 3339
}

// Types of an initial position.
const (
	Earliest    = "Earliest"
	Latest      = "Latest"
	AtPosition  = "Position"
	AtTimestamp = "Timestamp"
)

// Policies of a group for replays.
const (
	ReplayAllow = "Allow"
	ReplayDeny  = "Deny"
)

// Handler is what is done with an event; Type names the field that is set.
type Handler struct {
	Type string      `json:"type"`
	Rows string      `json:"rows,omitempty"` // whose events the rows are of that it writes; Shared in a definition is left out
	SQL  *SQLHandler `json:"sql,omitempty"`
	Go   *GoHandler  `json:"go,omitempty"`
}

// Types of a handler.
const (
	HandlerSQL = "SQL"
	HandlerGo  = "Go"
)

// Whose events the rows are of that a handler writes.
const (
	RowsShared     = "Shared"     // of several sequences
	RowsBySequence = "BySequence" // each of one sequence only
)

// SQLHandler are statements that the runtime carries out in the store.
type SQLHandler struct {
	Setup      string      `json:"setup,omitempty"`
	Reset      string      `json:"reset,omitempty"`
	Statements []Statement `json:"statements"`
}

// Statement is one SQL command, over a batch or for each event, and the types of the events that it
// is for; none means all.
type Statement struct {
	EventTypes []string `json:"eventTypes,omitempty"`
	Batch      string   `json:"batch,omitempty"`
	Each       string   `json:"each,omitempty"`
}

// GoHandler is a handler that the program has registered under the name Handler.
type GoHandler struct {
	Handler string `json:"handler,omitempty"`
}

// OnError says what happens when an event cannot be handled.
type OnError struct {
	MaxAttempts int32   `json:"maxAttempts,omitempty"`
	Backoff     Backoff `json:"backoff,omitzero"`
	Then        string  `json:"then,omitempty"`
}

// ThenBlock goes on trying, and the segment waits.
const ThenBlock = "Block"

// Backoff is how long to wait between attempts.
type Backoff struct {
	Initial Duration `json:"initial,omitempty"`
	Max     Duration `json:"max,omitempty"`
}
