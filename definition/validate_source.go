package definition

import (
	"regexp"

	"github.com/sluice-project/sluice/api/rules"
)

var (
	tableName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*[.][A-Za-z_][A-Za-z0-9_$]*$`)
	columnName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*$`)
)

func (c *checker) source(at string, source Source) {
	if !c.oneOf(at+".type", source.Type, SourceStore, SourceTable) {
		return
	}
	c.require((source.Table != nil) == (source.Type == SourceTable), at, rules.SourceUnion)
	if source.Postgres != nil {
		c.database(at+".postgres", source.Postgres.Database)
		c.schema(at+".postgres.schema", source.Postgres.Schema)
		c.require(source.Type == SourceStore || source.Postgres.Schema == DefaultSchema, at, rules.SourceSchema)
	}
	if source.Table != nil {
		c.table(at+".table", *source.Table)
	}
}

func (c *checker) table(at string, table Table) {
	if c.text(at+".name", table.Name, 127) {
		c.require(tableName.MatchString(table.Name), at+".name", rules.TableName)
	}
	known := c.oneOf(at+".positions", table.Positions, PositionsInserted, PositionsTransaction, PositionsReserved)
	known = c.oneOf(at+".order", table.Order, OrderStream, OrderNone) && known
	if table.Sequence != "" && c.text(at+".sequence", table.Sequence, 127) {
		c.require(tableName.MatchString(table.Sequence), at+".sequence", rules.SequenceName)
	}
	columns := table.Columns
	for _, column := range []struct {
		field, name string
		optional    bool
	}{
		{"position", columns.Position, false}, {"transaction", columns.Transaction, true}, {"stream", columns.Stream, false}, {"version", columns.Version, true},
		{"type", columns.Type, false}, {"id", columns.ID, true}, {"recordedAt", columns.RecordedAt, false},
	} {
		if !column.optional || column.name != "" {
			c.column(at+".columns."+column.field, column.name)
		}
	}
	// With a column of transactions progress cannot leave a single event out, so none can be held back.
	c.require(!known || table.Positions == PositionsInserted || table.Order == OrderNone || columns.Version != "" && columns.Transaction == "", at, rules.TableOrder)
	c.payload(at+".data", table.Data)
	if table.Metadata != nil {
		c.payload(at+".metadata", *table.Metadata)
	}
}

func (c *checker) column(at, name string) {
	if c.text(at, name, 63) {
		c.require(columnName.MatchString(name), at, rules.ColumnName)
	}
}

func (c *checker) payload(at string, p Payload) {
	c.column(at+".column", p.Column)
	known := c.oneOf(at+".type", p.Type, PayloadJSONB, PayloadJSON, PayloadText, PayloadBytea, PayloadLargeObject)
	if c.oneOf(at+".content", p.Content, ContentJSON, ContentText, ContentBase64) && known {
		binary := p.Type == PayloadBytea || p.Type == PayloadLargeObject
		json := p.Type == PayloadJSONB || p.Type == PayloadJSON
		c.require(p.Content == ContentJSON || binary || p.Content == ContentText && !json, at, rules.PayloadContent)
	}
}
