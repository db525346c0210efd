package definition

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// defaults are those of the CRD, parents before their children: where in the spec, and the value as JSON.
var defaults = []struct{ path, value string }{
	{"desiredState", `"Running"`},
	{"replicas", `1`},
	{"deletionPolicy", `"Retain"`},
	{"lease", `"5s"`},
	{"errorDetails", `"Hidden"`},
	{"store.postgres.schema", `"sluice"`},
	{"store.postgres.migrations", `"Auto"`},
	{"store.postgres.urlSecretRef.key", `"uri"`},
	{"store.postgres.connection.port", `5432`},
	{"store.postgres.tls.mode", `"VerifyFull"`},
	{"source", `{"type":"Store"}`},
	{"source.postgres.schema", `"sluice"`},
	{"source.postgres.urlSecretRef.key", `"uri"`},
	{"source.postgres.connection.port", `5432`},
	{"source.postgres.tls.mode", `"VerifyFull"`},
	{"source.table.positions", `"Inserted"`},
	{"source.table.order", `"Stream"`},
	{"source.table.data.type", `"JSONB"`},
	{"source.table.data.content", `"JSON"`},
	{"source.table.metadata.type", `"JSONB"`},
	{"source.table.metadata.content", `"JSON"`},
	{"replay.from", `{"type":"Earliest"}`},
	{"processingGroups[].segments", `16`},
	{"processingGroups[].sequencing", `{"type":"Stream","hash":"Default"}`},
	{"processingGroups[].sequencing.type", `"Stream"`},
	{"processingGroups[].sequencing.hash", `"Default"`},
	{"processingGroups[].initialPosition", `{"type":"Earliest"}`},
	{"processingGroups[].maxBatchSize", `5000`},
	{"processingGroups[].timeout", `"1m0s"`},
	{"processingGroups[].desiredState", `"Running"`},
	{"processingGroups[].handler.rows", `"Shared"`},
	{"processingGroups[].onError", `{"maxAttempts":5,"backoff":{"initial":"1s","max":"1m0s"},"then":"Block"}`},
	{"processingGroups[].onError.maxAttempts", `5`},
	{"processingGroups[].onError.backoff", `{"initial":"1s","max":"1m0s"}`},
	{"processingGroups[].onError.backoff.initial", `"1s"`},
	{"processingGroups[].onError.backoff.max", `"1m0s"`},
	{"processingGroups[].onError.then", `"Block"`},
}

// Default fills in what the API server fills in where a field has its zero value, names each Go handler that has no
// name after its group, and writes durations in one way.
func (s *Spec) Default() {
	template := s.Template // may be anything, and has no defaults
	s.Template = nil
	tree, err := treeOf(*s)
	if err == nil {
		fillDefaults(tree)
		err = fromTree(tree, s)
	}
	if err != nil {
		panic(fmt.Sprintf("definition: a spec does not survive JSON: %v", err)) // plain strings and numbers do
	}
	s.Template = template
	s.Lease.canonical()
	for i := range s.ProcessingGroups {
		s.ProcessingGroups[i].complete()
	}
}

// complete fills in what the CRD leaves to the programs that read it.
func (g *Group) complete() {
	if g.Handler.Type == HandlerGo {
		if g.Handler.Go == nil {
			g.Handler.Go = &GoHandler{}
		}
		if g.Handler.Go.Handler == "" {
			g.Handler.Go.Handler = g.Name
		}
	}
	for _, duration := range []*Duration{&g.Timeout, &g.OnError.Backoff.Initial, &g.OnError.Backoff.Max} {
		duration.canonical()
	}
}

// fillDefaults sets what is absent or null in a spec's JSON tree, and leaves alone what is there, also a zero.
func fillDefaults(spec map[string]any) {
	for _, field := range defaults {
		fill(spec, strings.Split(field.path, "."), field.value)
	}
}

func fill(object map[string]any, path []string, value string) {
	key, _ := strings.CutSuffix(path[0], "[]")
	if len(path) == 1 {
		if object[key] == nil {
			object[key] = json.RawMessage(value)
		}
		return
	}
	switch child := object[key].(type) {
	case map[string]any:
		fill(child, path[1:], value)
	case []any:
		for _, item := range child {
			if item, ok := item.(map[string]any); ok {
				fill(item, path[1:], value)
			}
		}
	}
}

func treeOf(value any) (map[string]any, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return decodeTree(data)
}

// decodeTree keeps numbers as they are written.
func decodeTree(data []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var tree map[string]any
	err := decoder.Decode(&tree)
	return tree, err
}

func fromTree(tree map[string]any, into *Spec) error {
	data, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	*into = Spec{}
	return json.Unmarshal(data, into)
}
