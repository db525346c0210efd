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
		"merged with null": {Token{Lower: &nothing, Upper: &Token{Index: 3}}, []string{`{"lowerSegmentToken":null,"upperSegmentToken":{"globalIndex":3}}`}},
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
		`{"index":10,"gaps":["java.util.TreeSet",[7]]}`: "not a number below the index",
		`{"globalIndex":1} {"globalIndex":2}`:           "neither JSON nor XML",
		"\xac\xed\x00\x05sr":                            "neither JSON nor XML",
		`{"tokenAtReset":{"globalIndex":9},"currentToken":{"globalIndex":8}}`:                                                       "in the middle of a replay",
		`{"tokenAtReset":{"globalIndex":9},"currentToken":null}`:                                                                    "in the middle of a replay",
		`{"tokenAtReset":{"index":9,"gaps":[]},"currentToken":{"index":12,"gaps":[5]}}`:                                             "in the middle of a replay",
		`{"lowerSegmentToken":{"positions":{}},"upperSegmentToken":{"globalIndex":3}}`:                                              "its kind is not known",
		`<t><tokenAtReset><globalIndex>9</globalIndex></tokenAtReset><currentToken><globalIndex>2</globalIndex></currentToken></t>`: "in the middle of a replay",
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
