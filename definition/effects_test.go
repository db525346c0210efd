package definition_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/definition"
)

// What a change of each field of a spec alters is a promise: a field that becomes part of the definition restarts pods.
func TestWhatAChangeOfEachFieldAlters(t *testing.T) {
	data, err := os.ReadFile("testdata/effects.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "#" {
			want[fields[0]] = strings.Join(fields[1:], " ")
		}
	}
	got := map[string]string{}
	full := populated()
	eachLeaf("spec", reflect.ValueOf(&full).Elem(), func(path string, _ reflect.Value) { got[path] = effect(path) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("testdata/effects.txt differs from what happens (-file +code)\n%s", diff)
	}
}

// effect says what differs when the field at path does.
func effect(path string) string {
	before, after := populated(), populated()
	eachLeaf("spec", reflect.ValueOf(&after).Elem(), func(at string, leaf reflect.Value) {
		if at == path {
			change(leaf)
		}
	})
	var effects []string
	if before.Definition().ID() != after.Definition().ID() {
		effects = append(effects, "definition")
	}
	if !cmp.Equal(before.Live(1), after.Live(1)) {
		effects = append(effects, "live")
	}
	if effects == nil {
		return "neither"
	}
	return strings.Join(effects, " ")
}

// populated is a spec with every field set, also those that exclude each other.
func populated() definition.Spec {
	var spec definition.Spec
	eachLeaf("spec", reflect.ValueOf(&spec).Elem(), func(_ string, leaf reflect.Value) { change(leaf) })
	spec.ProcessingGroups[0].Handler.Type = definition.HandlerGo // whose name has a default
	return spec
}

func change(leaf reflect.Value) {
	switch value := leaf.Interface().(type) {
	case json.RawMessage:
		leaf.SetBytes([]byte(`{"spec":{"hostname":"` + strings.Repeat("x", len(value)+1) + `"}}`))
	case map[string]string:
		leaf.Set(reflect.ValueOf(map[string]string{"key": strings.Repeat("x", len(value["key"])+1)}))
	case definition.Duration:
		leaf.SetString(string(definition.DurationOf(value.Value() + 1e9)))
	case int32:
		leaf.SetInt(int64(value) + 1)
	default:
		leaf.SetString(leaf.String() + "x")
	}
}

// eachLeaf visits every field that holds a value, and makes what is on the way to it: pointers and one item a list.
func eachLeaf(path string, value reflect.Value, visit func(path string, leaf reflect.Value)) {
	switch {
	case value.Type() == reflect.TypeFor[json.RawMessage]():
		visit(path, value)
	case value.Kind() == reflect.Pointer:
		if value.IsNil() {
			value.Set(reflect.New(value.Type().Elem()))
		}
		eachLeaf(path, value.Elem(), visit)
	case value.Kind() == reflect.Slice:
		if value.Len() == 0 {
			value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		}
		eachLeaf(path+"[]", value.Index(0), visit)
	case value.Kind() == reflect.Struct:
		for i := range value.NumField() {
			field := value.Type().Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			switch {
			case field.Anonymous: // its fields are the struct's
				eachLeaf(path, value.Field(i), visit)
			case name != "-": // a field of the API
				eachLeaf(path+"."+name, value.Field(i), visit)
			}
		}
	default:
		visit(path, value)
	}
}
