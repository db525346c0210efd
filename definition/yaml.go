package definition

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/api/rules"
)

// APIVersion and Kind of the manifests that ParseYAML reads.
const (
	APIVersion = "sluice.dev/v1alpha1"
	Kind       = "EventProcessor"
)

// Document is an EventProcessor's manifest, with its defaults filled in.
type Document struct {
	Name      string
	Namespace string
	Spec      Spec
}

// ParseYAML reads the one EventProcessor of a manifest, which may hold objects of other kinds. It is as strict as kubectl
// apply: unknown fields and repeated keys are refused. The error of a manifest that breaks rules is an *InvalidError.
func ParseYAML(data []byte) (Document, error) {
	var found [][]byte
	for i, document := range splitYAML(data) {
		ours, err := isProcessor(document)
		if err != nil {
			return Document{}, fmt.Errorf("reading document %d of the manifest: %w", i+1, err)
		}
		if ours {
			found = append(found, document)
		}
	}
	if len(found) != 1 {
		return Document{}, fmt.Errorf("the manifest has %d objects of kind %s in %s: it must have exactly one",
			len(found), Kind, APIVersion)
	}
	return parseProcessor(found[0])
}

// splitYAML cuts at the lines that begin a document. Such a line cannot stand inside a text block, which is indented.
func splitYAML(data []byte) [][]byte {
	var documents [][]byte
	var current []byte
	for line := range bytes.Lines(data) {
		trimmed := bytes.TrimRight(line, " \t\r\n")
		if rest, separator := bytes.CutPrefix(trimmed, []byte("---")); separator && (len(rest) == 0 || rest[0] == ' ') {
			documents = append(documents, current)
			line, current = append(bytes.TrimSpace(rest), '\n'), nil
		}
		current = append(current, line...)
	}
	return append(documents, current)
}

func isProcessor(document []byte) (bool, error) {
	var header struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &header); err != nil {
		return false, err
	}
	if header.Kind == Kind && strings.HasPrefix(header.APIVersion, "sluice.dev/") && header.APIVersion != APIVersion {
		return false, fmt.Errorf("apiVersion %s of kind %s is not known: use %s", header.APIVersion, Kind, APIVersion)
	}
	return header.Kind == Kind && header.APIVersion == APIVersion, nil
}

// manifest is an EventProcessor as it is written. Metadata and status are the API server's.
type manifest struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Metadata   stdjson.RawMessage `json:"metadata"`
	Spec       Spec               `json:"spec"`
	Status     stdjson.RawMessage `json:"status"`
}

func parseProcessor(document []byte) (Document, error) {
	data, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return Document{}, fmt.Errorf("reading the manifest of kind %s: %w", Kind, err)
	}
	parsed, err := decodeProcessor(data)
	if err != nil {
		return Document{}, err
	}
	var metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}
	if len(parsed.Metadata) > 0 {
		if err := stdjson.Unmarshal(parsed.Metadata, &metadata); err != nil {
			return Document{}, fmt.Errorf("reading metadata: %w", err)
		}
	}
	c := &checker{}
	c.require(len(metadata.Name) <= 52 && dnsLabel.MatchString(metadata.Name), "metadata.name", rules.ProcessorName)
	spec, err := checked(parsed.Spec, c.problems)
	return Document{Name: metadata.Name, Namespace: metadata.Namespace, Spec: spec}, err
}

// ParseSpec reads a spec's JSON as strictly as ParseYAML reads a manifest: the operator's way from its own types.
func ParseSpec(data []byte) (Spec, error) {
	parsed, err := decodeProcessor(slices.Concat([]byte(`{"spec":`), data, []byte(`}`)))
	if err != nil {
		return Spec{}, err
	}
	return checked(parsed.Spec, nil)
}

func checked(spec Spec, found []Problem) (Spec, error) {
	if problems := slices.Concat(found, spec.Validate()); len(problems) > 0 {
		return Spec{}, &InvalidError{Problems: problems}
	}
	spec.Default() // after Validate, which has to see a zero that was written
	return spec, nil
}

func decodeProcessor(data []byte) (manifest, error) {
	tree, err := decodeTree(data)
	if err != nil {
		return manifest{}, fmt.Errorf("reading an object of kind %s: %w", Kind, err)
	}
	if spec, ok := tree["spec"].(map[string]any); ok {
		fillDefaults(spec)
		keepEmpty(spec["processingGroups"])
	}
	if data, err = stdjson.Marshal(tree); err != nil {
		return manifest{}, fmt.Errorf("reading an object of kind %s: %w", Kind, err)
	}
	var parsed manifest
	err = decodeStrict(data, &parsed)
	return parsed, err
}

// keepEmpty writes a blank for each empty text, which Validate refuses alike: a Spec cannot tell an empty text from none.
func keepEmpty(tree any) {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			if value == "" {
				tree[key] = " "
			}
			keepEmpty(value)
		}
	case []any:
		for _, item := range tree {
			keepEmpty(item)
		}
	}
}

// decodeStrict refuses unknown fields and wrong types, naming their paths.
func decodeStrict(data []byte, into any) error {
	unknown, err := json.UnmarshalStrict(data, into)
	var wrongType *stdjson.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return &InvalidError{[]Problem{{pathAt(data, wrongType.Offset),
			fmt.Sprintf("must be of type %s, not %s", typeName(wrongType.Type.Kind().String()), wrongType.Value)}}}
	}
	if err != nil {
		return err
	}
	problems := make([]Problem, len(unknown))
	for i, err := range unknown {
		problems[i].Text = err.Error()
		if field, ok := errors.AsType[json.FieldError](err); ok {
			problems[i].Path = field.FieldPath()
		}
	}
	if len(problems) > 0 {
		return &InvalidError{Problems: problems}
	}
	return nil
}

// pathAt is the way to the value that ends at an offset, or begins there with a bracket. A
// decoder's error names fields only, without the items of lists.
func pathAt(data []byte, offset int64) string {
	path, _ := findAt(stdjson.NewDecoder(bytes.NewReader(data)), "", offset)
	return path
}

// findAt reads the value at a path.
func findAt(decoder *stdjson.Decoder, path string, offset int64) (at string, found bool) {
	token, err := decoder.Token()
	if err != nil || decoder.InputOffset() >= offset {
		return path, true
	}
	if token != stdjson.Delim('[') && token != stdjson.Delim('{') {
		return "", false
	}
	for i := 0; decoder.More(); i++ {
		inside := fmt.Sprintf("%s[%d]", path, i)
		if token == stdjson.Delim('{') {
			name, err := decoder.Token()
			if err != nil {
				return path, true
			}
			inside = strings.TrimPrefix(fmt.Sprintf("%s.%s", path, name), ".")
		}
		if at, found := findAt(decoder, inside, offset); found {
			return at, true
		}
	}
	_, err = decoder.Token() // the closing bracket
	return path, err != nil
}

// typeName is JSON's name of a Go kind.
func typeName(kind string) string {
	switch kind {
	case "struct", "map", "ptr":
		return "object"
	case "slice":
		return "array"
	case "string":
		return "string"
	case "bool":
		return "boolean"
	default:
		return "integer"
	}
}
