package segment

import (
	"strconv"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// Fields are what sequence keys are made of.
type Fields struct {
	StreamID       string
	ID             string // of the event
	Data, Metadata []byte // JSON objects
}

// sequentialKey is the one that Axon Framework takes, so that tokens taken over from there keep their meaning.
const sequentialKey = "FULL_SEQUENTIAL_POLICY"

// Of returns the hash of an event's sequence key. Of Broadcast it is 0 and says nothing.
//
// A text is the key as it is. A number or truth value is the key as JSON writes it, so that 7 and "7" are one key, and 7 and 7.0
// two. Where there is no such field, or it holds null, an object or an array, the stream id is the key: those events are kept in
// their stream's order.
//
// With HashJava a key is hashed as Java does: a text as String.hashCode, an integer of 64 bits as Long.hashCode, a truth value
// as Boolean.hashCode, and any other number as the text that JSON has of it.
func (s Sequencing) Of(f Fields) uint32 {
	switch s.Type {
	case Property:
		if value, found := follow(f.Data, s.Property); found {
			return s.ofValue(value, f.StreamID)
		}
	case Metadata:
		if value, found := field(object(f.Metadata), s.Metadata); found {
			return s.ofValue(value, f.StreamID)
		}
	case Sequential:
		return s.hash(sequentialKey)
	case Concurrent:
		return s.hash(f.ID)
	case Broadcast:
		return 0
	case Stream:
	}
	return s.hash(f.StreamID)
}

func (s Sequencing) hash(key string) uint32 {
	if s.Hash == HashJava {
		return Java(key)
	}
	return PG1(key)
}

func (s Sequencing) ofValue(value gjson.Result, streamID string) uint32 {
	switch value.Type {
	case gjson.String:
		return s.hash(value.Str)
	case gjson.Number:
		if n, err := strconv.ParseInt(value.Raw, 10, 64); err == nil && s.Hash == HashJava {
			return javaLong(n)
		}
		return s.hash(value.Raw)
	case gjson.True, gjson.False:
		if s.Hash == HashJava {
			return javaBoolean(value.Type == gjson.True)
		}
		return s.hash(value.Raw)
	case gjson.Null, gjson.JSON:
	}
	return s.hash(streamID)
}

// javaLong is Long.hashCode.
func javaLong(n int64) uint32 { return uint32(n) ^ uint32(uint64(n)>>32) }

// javaBoolean is Boolean.hashCode.
func javaBoolean(b bool) uint32 {
	if b {
		return 1231
	}
	return 1237
}

// follow goes from field to field of objects. An array ends the way: a place in one is no property.
func follow(data []byte, path string) (gjson.Result, bool) {
	value := object(data)
	for more := true; more; {
		var name string
		name, path, more = strings.Cut(path, ".")
		var found bool
		if value, found = field(value, name); !found {
			return value, false
		}
	}
	return value, true
}

// object looks at JSON without copying it. What is found there must not outlive the bytes; hashes do.
func object(data []byte) gjson.Result {
	return gjson.Parse(unsafe.String(unsafe.SliceData(data), len(data)))
}

func field(value gjson.Result, name string) (gjson.Result, bool) {
	if !value.IsObject() {
		return gjson.Result{}, false
	}
	value = value.Get(gjson.Escape(name))
	return value, value.Exists()
}
