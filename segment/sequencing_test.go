package segment_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/segment"
)

func event(data, metadata string) segment.Fields {
	return segment.Fields{StreamID: "order-1", ID: "f47ac10b-58cc-4372-a567-0e02b2c3d479", Data: []byte(data), Metadata: []byte(metadata)}
}

func TestTheKeyIsWhatTheSequencingNames(t *testing.T) {
	const data = `{"customer": {"id": "customer-42", "a.b": "x", "vip": true, "none": null, "no": 42, "deep": {"er": 7.50}}, "items": [{"id": "customer-42"}], "0": "zero", "é\"*": "quoted \u00e9"}`
	property := func(path string) segment.Sequencing {
		return segment.Sequencing{Type: segment.Property, Property: path, Hash: segment.HashPG1}
	}
	metadata := func(key string) segment.Sequencing {
		return segment.Sequencing{Type: segment.Metadata, Metadata: key, Hash: segment.HashPG1}
	}
	const stream = "order-1"
	for name, test := range map[string]struct {
		s    segment.Sequencing
		want string
	}{
		"the stream's id":                {segment.PerStream, stream},
		"a text":                         {property("customer.id"), "customer-42"},
		"a number as it is written":      {property("customer.no"), "42"},
		"with its zeros":                 {property("customer.deep.er"), "7.50"},
		"a truth value":                  {property("customer.vip"), "true"},
		"an escaped text":                {property(`é"*`), "quoted é"},
		"a field with a digit's name":    {property("0"), "zero"},
		"null: the stream's":             {property("customer.none"), stream},
		"an object: the stream's":        {property("customer.deep"), stream},
		"an array: the stream's":         {property("items"), stream},
		"no place in an array":           {property("items.0.id"), stream},
		"no function over one":           {property("items.#.id"), stream},
		"no pattern":                     {property("cust*.id"), stream},
		"no modifier":                    {property("@this.customer.id"), stream},
		"nothing below a text":           {property("customer.id.x"), stream},
		"a field that is missing":        {property("customer.ID"), stream},
		"a name with a dot is not found": {property("customer.a.b"), stream},
		"a field of the metadata":        {metadata("tenant"), "blue"},
		"whose name may have dots":       {metadata("x.y"), "dotted"},
		"not of the data":                {metadata("customer"), stream},
		"one key for all":                {segment.Sequencing{Type: segment.Sequential, Hash: segment.HashPG1}, "FULL_SEQUENTIAL_POLICY"},
		"the event's id":                 {segment.Sequencing{Type: segment.Concurrent, Hash: segment.HashPG1}, "f47ac10b-58cc-4372-a567-0e02b2c3d479"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := test.s.Of(event(data, `{"tenant": "blue", "x.y": "dotted"}`)), segment.PG1(test.want); got != want {
				t.Errorf("the key's hash is %d, want %d, that of %q", got, want, test.want)
			}
		})
	}
}

// TestWhoNeedsNoContentsGoesByTheStreamAlone takes from an event all but its stream: the hash of who says to need no more stays the same, that of the others does not.
func TestWhoNeedsNoContentsGoesByTheStreamAlone(t *testing.T) {
	whole := event(`{"customer": {"id": "anna"}}`, `{"tenant": "blue"}`)
	for _, s := range []segment.Sequencing{
		segment.PerStream, {Type: segment.Sequential, Hash: segment.HashPG1},
		{Type: segment.Property, Property: "customer.id", Hash: segment.HashPG1}, {Type: segment.Metadata, Metadata: "tenant", Hash: segment.HashPG1},
		{Type: segment.Concurrent, Hash: segment.HashJava}, {Type: segment.Broadcast, Hash: segment.HashPG1},
	} {
		if differs := s.Of(whole) != s.Of(segment.Fields{StreamID: whole.StreamID}); differs != s.NeedsContents() {
			t.Errorf("%s: its hash differs without contents: %v; it needs them: %v", s, differs, s.NeedsContents())
		}
	}
}

// The values are what a JVM computes.
func TestJavaHashesEqualTheJVMs(t *testing.T) {
	for data, want := range map[string]int32{
		`{"k": "customer-42"}`:                          -1772111155,
		`{"k": "123e4567-e89b-12d3-a456-426614174000"}`: -1483351720,
		`{"k": ""}`:                   0,
		`{"k": 42}`:                   42,
		`{"k": 4294967296}`:           1,
		`{"k": -1}`:                   0,
		`{"k": 123456789012}`:         -1097262584,
		`{"k": 9223372036854775807}`:  -2147483648,
		`{"k": -9223372036854775808}`: -2147483648,
		`{"k": true}`:                 1231,
		`{"k": false}`:                1237,
		`{"k": 1.5}`:                  int32(segment.Java("1.5")),
		`{"k": 9223372036854775808}`:  int32(segment.Java("9223372036854775808")),
		`{"k": null}`:                 -1207111310, // order-1
		`{}`:                          -1207111310,
	} {
		s := segment.Sequencing{Type: segment.Property, Property: "k", Hash: segment.HashJava}
		if got := int32(s.Of(event(data, "{}"))); got != want {
			t.Errorf("%s: %d, want %d", data, got, want)
		}
	}
	for kind, want := range map[segment.SequencingType]int32{
		segment.Stream: -1207111310, segment.Sequential: -324429118, segment.Concurrent: -1885019005,
	} {
		if got := int32(segment.Sequencing{Type: kind, Hash: segment.HashJava}.Of(event("{}", "{}"))); got != want {
			t.Errorf("%s: %d, want %d", kind, got, want)
		}
	}
}

// TestKeysAreFoundAsInAnyOtherReaderOfJSON holds the search for a key against encoding/json.
func TestKeysAreFoundAsInAnyOtherReaderOfJSON(t *testing.T) {
	name := rapid.StringMatching(`[a-c@#*?|!{}\[\]\\"é .:~^=<>%0-9-]{1,3}`).Filter(func(s string) bool { return !strings.Contains(s, ".") })
	value := rapid.OneOf(
		rapid.Map(rapid.StringN(0, 5, -1), func(s string) any { return strings.ToValidUTF8(s, "") }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Just(any(nil)), rapid.Just(any([]any{"x"})))
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.SliceOfN(name, 1, 3).Draw(t, "path")
		tree := map[string]any{"other": "x"}
		object := tree
		for _, step := range path[:len(path)-1] {
			inner := map[string]any{}
			object[step], object = inner, inner
		}
		object[path[len(path)-1]] = value.Draw(t, "value")
		data, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		asked := path
		if rapid.Bool().Draw(t, "another") {
			asked = rapid.SliceOfN(name, 1, 3).Draw(t, "asked")
		}
		s := segment.Sequencing{Type: segment.Property, Property: strings.Join(asked, "."), Hash: segment.HashPG1}
		if got, want := s.Of(event(string(data), "{}")), segment.PG1(keyOf(t, data, asked)); got != want {
			t.Fatalf("%s of %s: %d, want %d", s, data, got, want)
		}
	})
}

func keyOf(t *rapid.T, data []byte, path []string) string {
	var value any
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	switch value := value.(type) {
	case string:
		return value
	case json.Number, bool:
		return fmt.Sprint(value)
	}
	return "order-1"
}

func TestEqualKeysHaveEqualHashesWhateverElseDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySequencing().Filter(func(s segment.Sequencing) bool { return s.Type == segment.Property }).Draw(t, "sequencing")
		tree := any(rapid.Int().Draw(t, "key"))
		for names := strings.Split(s.Property, "."); len(names) > 0; names = names[:len(names)-1] {
			tree = map[string]any{names[len(names)-1]: tree, "z" + rapid.StringMatching(`[a-z]{3}`).Draw(t, "noise"): 1}
		}
		data, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		a := segment.Fields{StreamID: "a", ID: "1", Data: data}
		b := segment.Fields{StreamID: "b", ID: "2", Data: []byte(" " + string(data) + "\n")}
		if s.Of(a) != s.Of(b) {
			t.Fatalf("%s differs in %s", s, data)
		}
	})
}

func anySequencing() *rapid.Generator[segment.Sequencing] {
	return rapid.Custom(func(t *rapid.T) segment.Sequencing {
		s := segment.Sequencing{
			Type: rapid.SampledFrom([]segment.SequencingType{segment.Stream, segment.Property, segment.Metadata, segment.Sequential, segment.Concurrent, segment.Broadcast}).Draw(t, "type"),
			Hash: rapid.SampledFrom([]segment.HashName{segment.HashPG1, segment.HashJava}).Draw(t, "hash"),
		}
		switch s.Type {
		case segment.Property:
			s.Property = rapid.StringMatching(`[a-z/:]{1,4}([.][a-z/:]{1,4}){0,2}`).Draw(t, "path")
		case segment.Metadata:
			s.Metadata = rapid.StringMatching(`[a-z/:. ]{1,6}`).Draw(t, "key")
		case segment.Broadcast:
			s.Hash = segment.HashPG1 // it hashes nothing
		case segment.Stream, segment.Sequential, segment.Concurrent:
		}
		return s
	})
}

func TestSequencingsSurviveTheirText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySequencing().Draw(t, "sequencing")
		if err := s.Valid(); err != nil {
			t.Fatal(err)
		}
		got, err := segment.ParseSequencing(s.String())
		if err != nil || got != s {
			t.Fatalf("%s: %+v, %v", s, got, err)
		}
	})
	if got := segment.PerStream.String(); got != "Stream/pg1" {
		t.Errorf("%s: it is in stores", got)
	}
	if got := (segment.Sequencing{Type: segment.Property, Property: "customer.id", Hash: segment.HashJava}).String(); got != "Property:customer.id/java" {
		t.Errorf("%s: it is in stores", got)
	}
	broadcast := segment.Sequencing{Type: segment.Broadcast, Hash: segment.HashJava}
	if got := broadcast.String(); got != "Broadcast/pg1" {
		t.Errorf("%s: its hash has no meaning, so it must not look changed", got)
	}
}

func TestWhatIsNoSequencingIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"Stream":              "it has no hash",
		"stream/pg1":          `type "stream" is not known, choose Stream`,
		"Stream/md5":          `hash "md5" is not known, choose pg1 or java`,
		"Property/pg1":        "type Property needs its field",
		"Metadata:/pg1":       "type Metadata needs its field",
		"Sequential:x/pg1":    "takes neither",
		"":                    "it has no hash",
		"Property:a.b/pg1/x":  `hash "x" is not known`,
		"Concurrent:tenant/1": "takes neither",
	} {
		if _, err := segment.ParseSequencing(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func BenchmarkSequencing(b *testing.B) {
	f := event(`{"order": {"lines": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]}, "total": 12.50, "customer": {"name": "Ærø", "id": "customer-42"}}`, `{"tenant": "blue"}`)
	for _, s := range []segment.Sequencing{
		segment.PerStream,
		{Type: segment.Property, Property: "customer.id", Hash: segment.HashPG1},
		{Type: segment.Metadata, Metadata: "tenant", Hash: segment.HashJava},
	} {
		b.Run(string(s.Type), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink = s.Of(f)
			}
		})
	}
}
