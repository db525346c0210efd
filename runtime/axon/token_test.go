package axon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const pkg = "org.axonframework.eventhandling."

func TestTokensAreReadInBothForms(t *testing.T) {
	gapAware := Token{Index: 10, Gaps: []int64{7, 8}}
	for name, test := range map[string]struct {
		want  Token
		texts []string
	}{
		"null":            {nothing, []string{"", " \n"}},
		"global sequence": {Token{Index: 42}, []string{`{"globalIndex":42}`, `<` + pkg + `GlobalSequenceTrackingToken><globalIndex>42</globalIndex></` + pkg + `GlobalSequenceTrackingToken>`}},
		"gap aware": {gapAware, []string{`{"index":10,"gaps":[7,8]}`,
			`<` + pkg + `GapAwareTrackingToken><index>10</index><gaps><long>7</long><long>8</long></gaps></` + pkg + `GapAwareTrackingToken>`}},
		"large":   {Token{Index: 9007199254740993}, []string{`{"globalIndex":9007199254740993}`, `<t><globalIndex>9007199254740993</globalIndex></t>`}},
		"no gaps": {Token{Index: 3}, []string{`{"index":3,"gaps":[]}`, `<t><index>3</index><gaps/></t>`}},
		"merged": {Token{Lower: &Token{Index: 3}, Upper: &gapAware}, []string{
			`{"lowerSegmentToken":{"@c":".GlobalSequenceTrackingToken","globalIndex":3},"upperSegmentToken":{"@c":".GapAwareTrackingToken","index":10,"gaps":[8,7]}}`,
			`<t><lowerSegmentToken class="x"><globalIndex>3</globalIndex></lowerSegmentToken><upperSegmentToken class="y"><index>10</index><gaps><long>7</long><long>8</long></gaps></upperSegmentToken></t>`}},
		"merged with null":  {Token{Lower: &nothing, Upper: &Token{Index: 3}}, []string{`{"lowerSegmentToken":null,"upperSegmentToken":{"globalIndex":3}}`}},
		"merged with nulls": {Token{Lower: &nothing, Upper: &nothing}, []string{`{"lowerSegmentToken":null,"upperSegmentToken":null}`, `<` + pkg + `MergedTrackingToken/>`}},
		"merged with one that XStream leaves out": {Token{Lower: &nothing, Upper: &Token{Index: 3}}, []string{
			`<` + pkg + `MergedTrackingToken><upperSegmentToken class="x"><globalIndex>3</globalIndex></upperSegmentToken></` + pkg + `MergedTrackingToken>`}},
		"merged within a merged one": {Token{Lower: &Token{Lower: &nothing, Upper: &nothing}, Upper: &Token{Index: 3}}, []string{
			`<t><lowerSegmentToken class="` + pkg + `MergedTrackingToken"/><upperSegmentToken class="x"><globalIndex>3</globalIndex></upperSegmentToken></t>`}},
		"merged of one object": {Token{Lower: &gapAware, Upper: &gapAware}, []string{
			`<t><lowerSegmentToken class="y"><index>10</index><gaps><long>7</long><long>8</long></gaps></lowerSegmentToken><upperSegmentToken class="y" reference="../lowerSegmentToken"/></t>`,
			`<t><lowerSegmentToken class="y"><index>10</index><gaps><long>7</long><long>8</long></gaps></lowerSegmentToken><upperSegmentToken class="y"><index>10</index><gaps reference="../../lowerSegmentToken/gaps"/></upperSegmentToken></t>`,
			`<t><lowerSegmentToken class="y"><index>10</index><gaps><long>7</long><long>8</long></gaps></lowerSegmentToken><upperSegmentToken class="y" reference="/t/lowerSegmentToken[1]"/></t>`}},
		"gaps as XStream has them without a converter": {gapAware, []string{
			`<t><index>10</index><gaps class="java.util.concurrent.ConcurrentSkipListSet"><m class="java.util.concurrent.ConcurrentSkipListMap" serialization="custom"><unserializable-parents/><java.util.concurrent.ConcurrentSkipListMap><default/>
			  <long>7</long><boolean>true</boolean><long>8</long><boolean>true</boolean><null/></java.util.concurrent.ConcurrentSkipListMap></m></gaps></t>`,
			`<t><index>10</index><gaps class="java.util.concurrent.ConcurrentSkipListSet"><m class="java.util.concurrent.ConcurrentSkipListMap" serialization="custom"><unserializable-parents/><java.util.concurrent.ConcurrentSkipListMap><default/>
			  <long>7</long><boolean>true</boolean><long>8</long><boolean reference="../boolean"/><null/></java.util.concurrent.ConcurrentSkipListMap></m></gaps></t>`,
			`<t><index>10</index><gaps class="sorted-set"><no-comparator/><long>7</long><long>8</long></gaps></t>`,
			`<t><index>10</index><gaps class="java.util.Collections$UnmodifiableSortedSet"><c class="sorted-set"><long>7</long><long>8</long></c><ss class="sorted-set" reference="../c"/></gaps></t>`}},
		"no gaps, without a converter": {Token{Index: 3}, []string{
			`<t><index>3</index><gaps class="java.util.concurrent.ConcurrentSkipListSet"><m class="java.util.concurrent.ConcurrentSkipListMap" serialization="custom"><unserializable-parents/><java.util.concurrent.ConcurrentSkipListMap><default/><null/></java.util.concurrent.ConcurrentSkipListMap></m></gaps></t>`,
			`<t><index>3</index><gaps class="java.util.Collections$UnmodifiableNavigableSet$EmptyNavigableSet"><c class="sorted-set"/><ss class="sorted-set" reference="../c"/><ns class="sorted-set" reference="../c"/></gaps></t>`}},
		"Jackson's default typing": {gapAware, []string{
			`{"index":10,"gaps":["java.util.Collections$UnmodifiableSortedSet",[7,8]]}`,
			`["` + pkg + `GapAwareTrackingToken",{"index":10,"gaps":["java.util.concurrent.ConcurrentSkipListSet",[["java.lang.Long",7],["java.lang.Long",8]]]}]`}},
		"no gaps, by Jackson's default typing": {Token{Index: 3}, []string{`{"index":3,"gaps":["java.util.TreeSet",[]]}`}},
		"a replay of one object that has ended": {gapAware, []string{
			`<` + pkg + `ReplayToken><tokenAtReset class="x"><index>10</index><gaps><long>7</long><long>8</long></gaps></tokenAtReset><currentToken class="x" reference="../tokenAtReset"/><context class="z"><a reference="../../nothing/of/ours"/></context></` + pkg + `ReplayToken>`}},
		"a replay that has ended": {gapAware, []string{
			`{"tokenAtReset":{"@class":"x","index":10,"gaps":[7,8]},"currentToken":{"@class":"x","index":10,"gaps":[7,8]},"context":null}`,
			`<t><tokenAtReset class="x"><index>9</index><gaps><long>7</long><long>8</long></gaps></tokenAtReset><currentToken class="x"><index>10</index><gaps><long>7</long><long>8</long></gaps></currentToken></t>`}},
	} {
		for _, text := range test.texts {
			got, err := ParseToken([]byte(text))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("%s, %s: (-want +got)\n%s", name, text, d)
			}
		}
	}
}

func TestWhatCannotBeTakenOverIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"positions":{"topic-0":12}}`:                  "its kind is not known",
		`{"trackingTokens":{}}`:                         "its kind is not known",
		`{"globalIndex":null}`:                          "globalIndex is null",
		`{"globalIndex":1.5}`:                           "globalIndex",
		`{"index":10,"gaps":[10]}`:                      "not a number below the index",
		`{"index":10,"gaps":["tree",[7]]}`:              "an object is no set in a form that Sluice reads: let Axon 4.7",
		`{"index":10,"gaps":[7,[8]]}`:                   "an object is no set",
		`{"index":10,"gaps":{"java.util.TreeSet":[7]}}`: "this is no set",
		`{"index":10,"gaps":"7"}`:                       "this is no set",
		`<t><index>10</index><gaps>7</gaps></t>`:        "this is no set",
		`{"index":10,"gaps":[{"a":7}]}`:                 "an object is no set",
		`<t><index>10</index><gaps class="x"><tree><long>7</long></tree></gaps></t>`:                                                         "tree is no set",
		`<t><index>10</index><gaps class="x"><m><java.util.TreeMap><long>7</long></java.util.TreeMap></m></gaps></t>`:                        "java.util.TreeMap is no set",
		`<t><index>10</index><gaps reference="../../other/gaps"/></t>`:                                                                       `the reference "../../other/gaps" leads nowhere`,
		`<t><index>10</index><gaps reference="17"/></t>`:                                                                                     `the reference "17" leads nowhere`,
		`<t><index>10</index><gaps reference=".."/></t>`:                                                                                     "refers to an element that it is in",
		`<t><index reference="../gaps"/><gaps reference="../index"/></t>`:                                                                    "refers to an element that it is in",
		`<t><lowerSegmentToken reference="../upperSegmentToken[2]"/><upperSegmentToken><globalIndex>3</globalIndex></upperSegmentToken></t>`: "leads nowhere",
		`{"globalIndex":1} {"globalIndex":2}`:                                                                                                "neither JSON nor XML",
		"\xac\xed\x00\x05sr":                                                                                                                 "neither JSON nor XML",
		`{"tokenAtReset":{"globalIndex":9},"currentToken":{"globalIndex":8}}`:                                                                "in the middle of a replay",
		`{"tokenAtReset":{"globalIndex":9},"currentToken":null}`:                                                                             "in the middle of a replay",
		`{"tokenAtReset":{"index":9,"gaps":[]},"currentToken":{"index":12,"gaps":[5]}}`:                                                      "in the middle of a replay",
		`{"lowerSegmentToken":{"positions":{}},"upperSegmentToken":{"globalIndex":3}}`:                                                       "its kind is not known",
		`<t><tokenAtReset><globalIndex>9</globalIndex></tokenAtReset><currentToken><globalIndex>2</globalIndex></currentToken></t>`:          "in the middle of a replay",
	} {
		if token, err := ParseToken([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: token %v, error %v, want %q", text, token, err, want)
		}
	}
}

// The masks of Axon's own table: of its ids, balanced or not.
func TestMasksFollowFromTheIDs(t *testing.T) {
	for want, ids := range map[string][]int32{
		"0/0": {0}, "0/1 1/1": {0, 1}, "0/3 1/1 2/3": {0, 1, 2}, "0/1 1/3 3/3": {0, 1, 3}, "0/1 1/3 3/7 7/7": {0, 1, 3, 7}, "0/3 1/3 2/3 3/7 7/7": {0, 1, 2, 3, 7},
		"0/7 1/3 2/3 3/3 4/7": {0, 1, 2, 3, 4},
	} {
		var rows []row
		for _, id := range ids {
			rows = append(rows, row{id: id})
		}
		rows, err := withSegments(rows)
		var got []string
		for _, r := range rows {
			got = append(got, r.segment.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%v gives %v, error %v, want %s", ids, got, err, want)
		}
	}
	one := int32(1)
	for name, rows := range map[string][]row{"a token is missing": {{id: 0, mask: &one}}, "twice": {{id: 0, mask: new(int32)}, {id: 1, mask: &one}}} {
		if _, err := withSegments(rows); err == nil {
			t.Errorf("%s, and nothing is said", name)
		}
	}
}
