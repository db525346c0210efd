package postgres

import (
	"fmt"
	"hash/fnv"
)

// What a store shares with others is the server: names of connections are the server's, advisory
// locks and channels the database's. So each of them says which store it belongs to. Schemas of one
// database, databases of one server, and copies of a store in either must not hear, block or end
// each other.

const (
	// formerClass is the first key of the session locks of workers that are older than lock_class.
	formerClass = 0x51C3CE
	// migrationLock is the second key of the lock that migrations are made under. Incarnations are
	// not negative.
	migrationLock = -1
)

// sessionClass is the first key of the session locks of a schema's workers; the second one is the
// incarnation.
func sessionClass(schema string) int32 { return classOf("session/" + schema) }

// MigrationLock returns the two keys of the advisory lock under which a schema is migrated.
func MigrationLock(schema string) (class, key int32) { return sessionClass(schema), migrationLock }

// permitClass is the first key of the locks for a schema's backlog permits; the second one is the
// permit's number, from 0.
func permitClass(schema string) int32 { return classOf("turn/" + schema) }

// classOf is not negative, so that pg_locks shows the same number.
func classOf(name string) int32 {
	h := fnv.New32a()
	h.Write([]byte("sluice/" + name))
	return int32(h.Sum32() & 0x7fffffff)
}

// lockKey is the second key of an incarnation's session lock.
func lockKey(incarnation int64) int32 { return int32(incarnation & 0x7fffffff) }

// lockOf is the key of a transaction's lock on something of a schema, as an expression of SQL with
// the text $1.
const lockOf = `hashtextextended($1, 5358542)`

// lockName is what lockOf takes.
func lockName(schema, kind, name string) string { return "sluice/" + schema + "/" + kind + "/" + name }

// home tells a store from every other one on the server. A copy has the same id, but is in another
// table or another database.
const home = `(SELECT left(md5(concat_ws('/', h.store_id, h.tableoid, d.oid)), 8) FROM {{schema}}.meta h, pg_database d WHERE d.datname = current_database())`

// ApplicationOf is the application_name of a worker's connections. The nonce tells the incarnation
// from one of the same number that was there before a restore.
func ApplicationOf(home string, incarnation int64, nonce string) string {
	return fmt.Sprintf("%s%s/%d/%.4s", applicationPrefix, home, incarnation, nonce)
}

const applicationPrefix = "sluice/"

// formerApplication is what connections of workers are called that are older than their row's
// column application.
const formerApplication = "sluice:"

// onlyStore is true in a database with one store. Connections with a former name may be any store's
// of the database, so only there may they be ended.
const onlyStore = `NOT EXISTS (SELECT FROM pg_class s WHERE s.relname = 'processing_group' AND s.relkind = 'r' AND s.oid <> '{{schema}}.processing_group'::regclass)`

// Channel on which changes of plans, owners and what takes effect live are announced. Payloads name
// the processor.
func Channel(schema string) string {
	if schema == DefaultSchema {
		return "sluice"
	}
	return channelOf("sluice_control_", schema)
}

// LiveChannel is the channel on which a schema's workers tell that they handle live events.
func LiveChannel(schema string) string { return channelOf("sluice_live_", schema) }

// channelOf is a name for a schema, or for a hash of it where that would be longer than the 63
// bytes that PostgreSQL allows.
func channelOf(prefix, schema string) string {
	if name := prefix + schema; len(name) <= 63 {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(schema))
	return fmt.Sprintf("%s%016x", prefix, h.Sum64())
}
