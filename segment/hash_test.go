package segment_test

import (
	"strings"
	"testing"

	"github.com/sluice-project/sluice/segment"
)

func TestPG1EqualsTheVectorsFromPostgreSQL(t *testing.T) {
	for _, v := range segment.Vectors() {
		if got := segment.PG1(v.Key); got != v.Hash {
			t.Errorf("PG1(%q) = %d, want %d", v.Key, got, v.Hash)
		}
	}
}

func TestJavaEqualsStringHashCode(t *testing.T) {
	for key, want := range map[string]int32{
		"":                                     0,
		"a":                                    97,
		"hello":                                99162322,
		"order-1":                              -1207111310,
		"order-10":                             1234255102,
		"customer-42":                          -1772111155,
		"f47ac10b-58cc-4372-a567-0e02b2c3d479": -1885019005,
		"é":                                    233,
		"😀":                                    1772899,
	} {
		if got := int32(segment.Java(key)); got != want {
			t.Errorf("Java(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestHashesDoNotAllocate(t *testing.T) {
	key := strings.Repeat("straße-", 20)
	var sum uint32
	f := segment.Fields{StreamID: key}
	if n := testing.AllocsPerRun(100, func() { sum += segment.PG1(key) + segment.Java(key) + segment.PerStream.Of(f) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

const uuid = "f47ac10b-58cc-4372-a567-0e02b2c3d479"

var sink uint32

func BenchmarkPG1(b *testing.B) {
	for b.Loop() {
		sink = segment.PG1(uuid)
	}
}

func BenchmarkJava(b *testing.B) {
	for b.Loop() {
		sink = segment.Java(uuid)
	}
}
