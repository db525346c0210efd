package definition

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Live are the settings that take effect without a restart. They travel through the store.
type Live struct {
	Generation   int64        `json:"generation"` // of the spec; settings of a higher one replace these
	DesiredState DesiredState `json:"desiredState"`
	Lease        Duration     `json:"lease,omitempty"`
	ErrorDetails string       `json:"errorDetails,omitempty"`
	Groups       []LiveGroup  `json:"groups"` // sorted by name
}

// LiveGroup are a group's live settings.
type LiveGroup struct {
	Name         string       `json:"name"`
	Segments     int32        `json:"segments"`
	MaxBatchSize int32        `json:"maxBatchSize"`
	Timeout      Duration     `json:"timeout,omitempty"`
	DesiredState DesiredState `json:"desiredState"`
	OnError      OnError      `json:"onError"`
}

// Live returns the live settings of a spec, which need not have its defaults.
func (s Spec) Live(generation int64) Live {
	s.Default() // of the copy: it shares nothing with the caller's
	live := Live{Generation: generation, DesiredState: s.DesiredState, Lease: s.Lease, ErrorDetails: s.ErrorDetails}
	for _, group := range s.ProcessingGroups {
		live.Groups = append(live.Groups, LiveGroup{
			Name:         group.Name,
			Segments:     group.Segments,
			MaxBatchSize: group.MaxBatchSize,
			Timeout:      group.Timeout,
			DesiredState: group.DesiredState,
			OnError:      group.OnError,
		})
	}
	slices.SortFunc(live.Groups, func(a, b LiveGroup) int { return cmp.Compare(a.Name, b.Name) })
	return live
}

// ParseLive reads live settings from JSON, on top of those that were in effect before. The operator
// and the image of a worker are updated at different times, so the settings may be of a later
// version: fields that this version does not know are left out. A value that it does not know keeps
// the behaviour from before, or the default where there was none, and is returned as a problem. The
// settings can always be used.
func ParseLive(data []byte, before Live) (Live, []Problem) {
	r := &liveReader{}
	fields, ok := r.object("", data)
	if !ok {
		return before, r.problems
	}
	live := Live{DesiredState: Running}
	read(r, fields, "generation", &live.Generation, before.Generation, func(at string, value int64) {
		r.require(value >= 0, at, "should be greater than or equal to 0")
	})
	read(r, fields, "desiredState", &live.DesiredState, before.DesiredState, r.desiredState)
	if _, there := fields["lease"]; there { // settings that were written before it could be set have none
		read(r, fields, "lease", &live.Lease, before.Lease, func(at string, value Duration) { r.lease(at, value) })
	}
	if _, there := fields["errorDetails"]; there {
		read(r, fields, "errorDetails", &live.ErrorDetails, before.ErrorDetails, func(at, value string) {
			r.oneOf(at, value, DetailsHidden, DetailsShown)
		})
	}
	var groups []json.RawMessage
	if !read(r, fields, "groups", &groups, nil, func(string, []json.RawMessage) {}) {
		live.Groups = before.Groups
	}
	for i, group := range groups {
		r.group(fmt.Sprintf("groups[%d]", i), group, before, &live)
	}
	return live, r.problems
}

// liveReader reads fields one by one, so that one that cannot be read does not keep the others from
// taking effect.
type liveReader struct{ checker }

// object reads the fields of an object.
func (r *liveReader) object(at string, data []byte) (map[string]json.RawMessage, bool) {
	var fields map[string]json.RawMessage
	err := json.Unmarshal(data, &fields)
	return fields, r.require(err == nil, at, "must be of type object")
}

// read reads a required field. Where it cannot be read, or fails its check, the field has the value
// from before; the zero value of that leaves what the field has: the default.
func read[T any](r *liveReader, fields map[string]json.RawMessage, path string, into *T, before T, check func(at string, value T)) bool {
	name := path[strings.LastIndex(path, ".")+1:]
	known := len(r.problems)
	var value T
	if data, there := fields[name]; !there {
		r.add(path, "Required value")
	} else if err := json.Unmarshal(data, &value); err != nil {
		r.add(path, fmt.Sprintf("the value %s cannot be read", shortened(data)))
	} else {
		check(path, value)
	}
	if len(r.problems) == known {
		*into = value
		return true
	}
	if !reflect.ValueOf(&before).Elem().IsZero() {
		*into = before
	}
	return false
}

// shortened is the beginning of a value, for a message.
func shortened(data []byte) string {
	const most = 100
	if len(data) <= most {
		return string(data)
	}
	return strings.ToValidUTF8(string(data[:most]), "") + "…"
}

func (r *liveReader) desiredState(at string, value DesiredState) {
	r.oneOf(at, string(value), string(Running), string(Paused))
}

// group reads a group's settings into the live ones. A group without a name that can be read is
// left out.
func (r *liveReader) group(at string, data []byte, all Live, into *Live) {
	fields, ok := r.object(at, data)
	if !ok {
		return
	}
	group := defaultLiveGroup()
	if !read(r, fields, at+".name", &group.Name, "", func(at, name string) { r.text(at, name, 63) }) {
		return
	}
	var before LiveGroup
	if i := slices.IndexFunc(all.Groups, func(g LiveGroup) bool { return g.Name == group.Name }); i >= 0 {
		before = all.Groups[i]
	}
	at = fmt.Sprintf("groups[%s]", group.Name) // which the spec has in another order
	read(r, fields, at+".segments", &group.Segments, before.Segments, func(at string, n int32) { r.between(at, n, 1, 32767) })
	read(r, fields, at+".maxBatchSize", &group.MaxBatchSize, before.MaxBatchSize, func(at string, n int32) { r.between(at, n, 1, 10000) })
	if _, there := fields["timeout"]; there { // settings that were written before it could be set have none
		read(r, fields, at+".timeout", &group.Timeout, before.Timeout, r.timeout)
	}
	read(r, fields, at+".desiredState", &group.DesiredState, before.DesiredState, r.desiredState)
	var onError json.RawMessage
	if read(r, fields, at+".onError", &onError, nil, func(string, json.RawMessage) {}) {
		r.readOnError(at+".onError", onError, before.OnError, &group.OnError)
	} else if before.OnError != (OnError{}) {
		group.OnError = before.OnError
	}
	into.Groups = append(into.Groups, group)
}

func (r *liveReader) readOnError(at string, data []byte, before OnError, into *OnError) {
	fields, ok := r.object(at, data)
	if !ok {
		if before != (OnError{}) {
			*into = before
		}
		return
	}
	read(r, fields, at+".maxAttempts", &into.MaxAttempts, before.MaxAttempts, func(at string, n int32) { r.between(at, n, 1, 100) })
	read(r, fields, at+".backoff", &into.Backoff, before.Backoff, r.backoff)
	read(r, fields, at+".then", &into.Then, before.Then, func(at, then string) { r.oneOf(at, then, ThenBlock) })
}

// defaultLiveGroup has the values of a spec in which nothing is set, but no time limit: settings
// that were written before it could be set have none.
func defaultLiveGroup() LiveGroup {
	group := Spec{ProcessingGroups: []Group{{}}}.Live(0).Groups[0]
	group.Timeout = ""
	return group
}
